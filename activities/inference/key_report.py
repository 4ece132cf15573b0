"""Tells which keys the models.yaml of agents folders declare, and whether each can be read: `python -m activities.inference.key_report`.

A program of its own for `holdfast doctor`, which imports nothing of the worker's. A key's value is never part of what is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from activities.agents.folders import MODELS_FILE, yaml_files
from activities.inference.key_sources import Source
from activities.inference.settings import defaults, load
from workflows.contracts.errors import DefinitionError


@dataclass(frozen=True, slots=True)
class DeclaredKey:
    """One key that a file declares."""

    provider: str
    key: str
    kind: str
    """`env`, `file` or `command`."""
    place: str
    """The variable, file or program; not a program's arguments, which may be secret."""
    read: bool
    """Whether it was looked at; programs are run only when that is asked for."""
    problem: str | None = None


async def declared(folders: Sequence[Path], environ: Mapping[str, str], *, run_commands: bool) -> list[DeclaredKey]:
    """Every key of the providers that the folders' files declare or change, by provider and name.

    Raises:
        DefinitionError: a file is wrong; names the file, the field and the remedy.
    """
    files = [path for folder in folders for path in yaml_files(folder) if path.name == MODELS_FILE]
    built_in = defaults(environ).providers
    entries = [
        (name, key)
        for name, provider in sorted(load(files, environ).providers.items())
        if provider != built_in.get(name)
        for key in provider.all_keys
    ]
    return list(await asyncio.gather(*(_looked_at(name, key.name, Source.of(key), environ, run_commands) for name, key in entries)))


async def _looked_at(provider: str, key: str, source: Source, environ: Mapping[str, str], run_commands: bool) -> DeclaredKey:
    kind = "command" if source.command is not None else "env" if source.env is not None else "file"
    if source.command is not None and not run_commands:
        return DeclaredKey(provider, key, kind, source.place, read=False)
    found = await source.read(environ)
    return DeclaredKey(provider, key, kind, source.place, read=True, problem=found.problem)


def main(arguments: Sequence[str]) -> int:
    """Print the keys as a JSON list, or what is wrong with a file on standard error; 0 or 2."""
    parser = argparse.ArgumentParser(prog="python -m activities.inference.key_report")
    parser.add_argument("--run-commands", action="store_true", help="run the programs that print keys")
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args(arguments)
    try:
        found = asyncio.run(declared(given.folders, os.environ, run_commands=given.run_commands))
    except DefinitionError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(json.dumps([asdict(each) for each in found]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
