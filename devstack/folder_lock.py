"""A lock on a folder between processes, freed by the kernel when its last holder has ended."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from devstack.errors import FolderInUseError, FolderUnusableError

POLL_S: Final = 0.05


@contextlib.asynccontextmanager
async def locked(path: Path, *, wait_s: float, purpose: str, on_wait: Callable[[str], None] | None = None) -> AsyncIterator[int]:
    """Hold the lock file `path`; yields its descriptor, which a child may inherit to hold the lock on.

    Waits up to `wait_s` seconds for another holder, telling `on_wait` once, and then raises FolderInUseError.
    """
    descriptor = await asyncio.to_thread(open_lock, path)
    try:
        give_up = time.monotonic() + wait_s
        told = False
        while not try_lock(descriptor):
            if on_wait and not told:
                on_wait(f"waiting for {holder(path)}, {purpose}")
                told = True
            if time.monotonic() >= give_up:
                raise FolderInUseError(f"{path.parent} is in use by {holder(path)}, {purpose}: stop that process or use another folder")
            await asyncio.sleep(POLL_S)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """Open the lock file, making its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FolderUnusableError(f"{path.parent} cannot be written ({error.strerror}): choose another folder") from error


def try_lock(descriptor: int) -> bool:
    """Take the lock if nobody holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(path: Path) -> str:
    """Who holds the lock, in words."""
    with contextlib.suppress(OSError, ValueError):
        return f"process {int(path.read_text())}"
    return "another process"
