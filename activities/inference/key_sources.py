"""Where a key's secret is read: an environment variable, a file, or what a program prints."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from pydantic import SecretStr

from workflows.contracts.provider_settings import KeyEntry

COMMAND_S: Final = 10.0
"""How long a program may take to print a key."""
FILE_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Found:
    """What stood there: a secret, or why there is none."""

    secret: SecretStr | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One place; exactly one of its fields is given."""

    env: str | None = None
    file: str | None = None
    command: tuple[str, ...] | None = None

    @classmethod
    def of(cls, entry: KeyEntry) -> Self:
        """Where a key of the settings is."""
        return cls(entry.env, entry.file, entry.command)

    @property
    def place(self) -> str:
        """How it is told. Of a command only the program: its arguments may be secret."""
        if self.command is not None:
            return f"command {self.command[0]}"
        return self.env or f"file {self.file}"

    def look(self, environ: Mapping[str, str]) -> Found:
        """Read a variable or a file. A command is not run here."""
        if self.env is not None:
            return _found(environ.get(self.env, ""), f"{self.env} is not set")
        try:
            with Path(self.file or "").open("rb") as opened:
                text = opened.read(FILE_BYTES).decode("utf-8")
        except (OSError, ValueError) as error:
            return Found(problem=f"file {self.file} cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}")
        return _found(text, f"file {self.file} is empty")

    async def read(self, environ: Mapping[str, str]) -> Found:
        """Read it, whatever it is; a program gets 10 s, the environment, and nothing on its standard input."""
        if self.command is None:
            return await asyncio.to_thread(self.look, environ)
        return await _printed(self.command, environ)


async def _printed(command: tuple[str, ...], environ: Mapping[str, str]) -> Found:
    """What a program prints. What it says on standard error is not kept: it may hold the secret."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, env=dict(environ))
    except (OSError, ValueError) as error:
        return Found(problem=f"command {command[0]} cannot be started: {getattr(error, 'strerror', None) or type(error).__name__}")
    try:
        async with asyncio.timeout(COMMAND_S):
            printed, _ = await process.communicate()
    except TimeoutError:
        return Found(problem=f"command {command[0]} printed no key within {COMMAND_S:g} s")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        return Found(problem=f"command {command[0]} ended with {process.returncode}")
    return _found(printed.decode("utf-8", "replace"), f"command {command[0]} printed nothing")


def _found(text: str, problem: str) -> Found:
    secret = text.strip()
    return Found(secret=SecretStr(secret)) if secret else Found(problem=problem)
