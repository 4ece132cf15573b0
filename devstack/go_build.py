"""Build our Temporal dev server from public Go modules: minutes the first time, with progress, then kept."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from devstack.errors import DevStackError
from devstack.go_toolchain import GoToolchain, find_toolchain

SOURCES: Final = Path(__file__).with_name("server")
PACKAGES: Final = 1778
MODULES: Final = 190
EXPECTED: Final = "6 to 8 minutes on 2 cores"
NEEDED_BYTES: Final = 6 * 1024**3
"""Free disk for a build from nothing: measured 2.1 GB of modules, 2 GB of compiled packages and 0.15 GB of result."""
PROGRESS_EVERY_S: Final = 15.0


class BuildFailedError(DevStackError):
    """The server could not be built."""


def source_key() -> str:
    """A short hash of our Go sources and the versions of their modules: another hash, another binary."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        if path.suffix == ".go" or path.name in ("go.mod", "go.sum"):
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


async def build(target: Path, environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Build the server and put it at `target` in one step. Raises BuildFailedError or NoToolchainError."""
    toolchain = await find_toolchain(target.parent, environment, on_line)
    started = time.monotonic()
    on_line(
        f"building the Temporal server from Go modules with {toolchain.version}: {EXPECTED} the first time, seconds when Go "
        "has built it before; it is kept afterwards"
    )
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="build-", dir=target.parent))
    try:
        await compile_server(toolchain, folder / "devserver", build_environment(target.parent, environment), on_line)
        (folder / "devserver").replace(target)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
    on_line(f"built the Temporal server in {minutes(time.monotonic() - started)}: {target} ({size_mb(target):.0f} MB)")
    on_line(f"Go keeps what a next build can use in its own caches, up to 4 GB: `{toolchain.path} clean -cache -modcache` frees it")


def build_environment(cache: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Go's settings for a build that anybody gets the same, from the modules that `go.sum` names and no others."""
    kept = {name: value for name, value in environment.items() if name not in ("GOFLAGS", "GOWORK", "GO111MODULE", "GOOS", "GOARCH")}
    kept |= {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    if not Path(kept.get("HOME", "")).is_dir() or not kept.get("HOME"):
        kept.setdefault("GOPATH", str(cache / "go"))
        kept.setdefault("GOCACHE", str(cache / "go-build"))
    return kept


@dataclass
class Progress:
    """Counts what Go reports, and tells it now and then."""

    on_line: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    downloaded: int = 0
    compiled: int = 0
    last: deque[str] = field(default_factory=lambda: deque(maxlen=6))
    _told: float = field(default_factory=time.monotonic)

    def read(self, line: str) -> None:
        """Take one line of Go's output."""
        if line.startswith("go: downloading "):
            self.downloaded += 1
        elif re.fullmatch(r"[\w./~-]+", line):
            self.compiled += 1
        else:
            self.last.append(line)
        if time.monotonic() - self._told >= PROGRESS_EVERY_S:
            self._told = time.monotonic()
            self.tell()

    def tell(self) -> None:
        """One line on how far the build is."""
        elapsed = minutes(time.monotonic() - self.started)
        if self.compiled:
            self.on_line(f"building: {self.compiled:,} of at most {PACKAGES:,} packages compiled, {elapsed}")
        else:
            self.on_line(f"building: {self.downloaded} of about {MODULES} modules downloaded, {elapsed}")


async def compile_server(toolchain: GoToolchain, output: Path, environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Run `go build`. Raises BuildFailedError with Go's last words."""
    command = [str(toolchain.path), "build", "-v", "-trimpath", "-ldflags=-s -w", "-o", str(output), "."]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=SOURCES,
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None  # noqa: S101 - given above
    progress = Progress(on_line)
    try:
        async for line in process.stderr:
            progress.read(line.decode(errors="replace").strip())
        status = await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)
            await process.wait()
    if status != 0:
        raise BuildFailedError(f"go build ended with status {status}: {' | '.join(progress.last) or 'no message'}")


def size_mb(path: Path) -> float:
    """The size of a file in megabytes."""
    return path.stat().st_size / 1e6


def minutes(seconds: float) -> str:
    """A length of time for people."""
    return f"{int(seconds // 60)} min {int(seconds % 60)} s" if seconds >= 60 else f"{seconds:.0f} s"
