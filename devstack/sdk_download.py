"""Let the Temporal SDK download the Temporal CLI, watched: without an internet connection it must give up within seconds."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from devstack.errors import DevStackError

FIRST_BYTE_S: Final = 8.0
STALL_S: Final = 20.0
POLL_S: Final = 0.2
REASON_LENGTH: Final = 240


class DownloadFailedError(DevStackError):
    """The Temporal SDK could not download the Temporal CLI."""


def sdk_version() -> str:
    """The version of the Temporal SDK, which chooses the version of the CLI."""
    return importlib.metadata.version("temporalio")


async def download(target: Path, environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Put the Temporal CLI at `target`. Raises DownloadFailedError with one line when nothing arrives for some seconds."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="download-", dir=target.parent))
    try:
        await run_watched(folder, environment, on_line)
        program_in(folder).replace(target)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def run_watched(folder: Path, environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Run the download in a process of its own, which can be ended, and end it when the folder stops growing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "devstack.sdk_download",
        str(folder),
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    ended = asyncio.create_task(process.communicate())
    size, moved_at = 0, time.monotonic()
    try:
        while not (await asyncio.wait({ended}, timeout=POLL_S))[0]:
            grown = folder_size(folder)
            if grown > size:
                if size == 0:
                    on_line("download by the Temporal SDK: bytes arrive")
                size, moved_at = grown, time.monotonic()
            patience_s = STALL_S if size else FIRST_BYTE_S
            if time.monotonic() - moved_at > patience_s:
                raise DownloadFailedError(f"nothing arrived for {patience_s:g} s")
    finally:
        if process.returncode is None:
            process.kill()
        output, _ = await ended
    if process.returncode != 0:
        raise DownloadFailedError(last_line(output.decode(errors="replace")))


def program_in(folder: Path) -> Path:
    """The one program in the folder."""
    arrived = [path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK)]
    if len(arrived) != 1:
        raise DownloadFailedError("the SDK reported success, but left no program")
    return arrived[0]


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder that is being written."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def last_line(output: str) -> str:
    """The last line of a program's output, short enough to be read."""
    lines = output.strip().splitlines() or ["it ended without a word"]
    return lines[-1][:REASON_LENGTH]


async def fetch(folder: str) -> None:
    """In the watched process: the SDK downloads only on the way to starting a server, so start one and end it."""
    from temporalio.testing import WorkflowEnvironment

    environment = await WorkflowEnvironment.start_local(download_dest_dir=folder)
    await environment.shutdown()


def main() -> None:
    """Download into the folder of the command line; leave without the interpreter's teardown, which can abort."""
    status, message = 0, ""
    try:
        asyncio.run(fetch(sys.argv[1]))
    except Exception as error:
        status, message = 1, f"{error}".replace("\n", " ")
    sys.stdout.write(message + "\n")
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
