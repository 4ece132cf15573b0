"""Questions about processes."""

from __future__ import annotations

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
