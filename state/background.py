"""Tasks in the background of a process, and their certain end."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

log = structlog.get_logger("holdfast.background")

AGAIN_S = 0.5


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task and wait until it has ended.

    `asyncio.wait_for` of Python 3.11, which the database's driver uses, swallows a cancellation that comes at the moment of its
    result; a task that runs for ever would then be awaited for ever, so it is cancelled again.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=AGAIN_S)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background.failed", error_type=type(error).__name__, exc_info=error)
