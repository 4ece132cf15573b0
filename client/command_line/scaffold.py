"""`holdfast new`: a folder with an agent, a tool and a test that passes."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import put, put_json
from workflows.contracts.errors import SettingsError

TEMPLATE: Final = "template"
SUFFIX: Final = ".txt"
"""On every file of the template, so that no tool takes it for code of ours."""
HIDDEN: Final = {"gitignore": ".gitignore"}


def new(folder: Path, /, *, json: AsJson = False) -> int:
    """Make a folder with an agent, a tool and a test to start from; what is in the folder already is not touched.

    Args:
        folder: Where; it is made if it is not there.
    """
    made = write_template(folder)
    if json:
        put_json({"folder": str(folder), "files": [str(path) for path in made]})
        return ExitCode.OK
    for path in made:
        put(str(path))
    put(f"\nNext: cd {folder}, then `pytest` for the test, `holdfast dev` for a worker with its servers. README.md says more.")
    return ExitCode.OK


def write_template(folder: Path) -> list[Path]:
    """Write the files; their paths.

    Raises:
        SettingsError: one of them is there already, or the folder cannot be written. Nothing is written then.
    """
    files = dict(_files(resources.files("client.command_line") / TEMPLATE, folder))
    there = [path for path in files if path.exists()]
    if there:
        raise SettingsError(f"{there[0]} is there already: name another folder.")
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{error.filename or folder} cannot be written: {error.strerror}.") from error
    return list(files)


def _files(template: Traversable, folder: Path) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for entry in sorted(template.iterdir(), key=lambda entry: entry.name):
        name = entry.name.removesuffix(SUFFIX)
        if entry.is_dir():
            found += _files(entry, folder / name)
        elif entry.name.endswith(SUFFIX):
            found.append((folder / HIDDEN.get(name, name), entry.read_text(encoding="utf-8")))
    return found
