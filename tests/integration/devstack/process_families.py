"""Questions about processes and what they leave."""

from __future__ import annotations

import os

import psutil


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family(pid: int) -> list[int]:
    """A process with all its descendants."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    return os.path.exists(path)
