"""Notices changed agents folders, so that adding or editing an agent needs no restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from activities.agents import folders, modules
from activities.agents.folders import Catalog
from workflows.contracts.errors import UnavailableError, UsageError

log = structlog.get_logger("holdfast.agents")

LOOK_EVERY_S = 1.0

Snapshot = tuple[tuple[str, int, int], ...]


def snapshot(paths: Sequence[Path]) -> Snapshot:
    """Name, time and size of every file that a catalog is made of."""
    found = []
    for folder in paths:
        try:
            files = [*folders.yaml_files(folder), *modules.watched_files(folder)]
        except OSError:  # a folder that goes away while it is read
            continue
        for file in files:
            try:
                status = file.stat()
            except OSError:
                continue
            found.append((str(file), status.st_mtime_ns, status.st_size))
    return tuple(found)


async def watch(
    paths: Sequence[Path], seen: Snapshot, changed: Callable[[Catalog], Awaitable[None]], *, every_s: float = LOOK_EVERY_S
) -> None:
    """Call `changed` with a new catalog after every change since `seen`; a broken edit is logged, and the old catalog stays."""
    while True:
        await asyncio.sleep(every_s)
        now = await asyncio.to_thread(snapshot, paths)
        if now == seen:
            continue
        try:
            await changed(await asyncio.to_thread(folders.load, paths))
            log.info("agents.reloaded", files=len(now))
        except UsageError as error:
            log.error("agents.reload_refused", problem=str(error))
        except UnavailableError as error:
            log.warning("agents.reload_postponed", problem=str(error))
            continue
        except Exception as error:  # whatever it was, the next edit must be noticed
            log.error("agents.reload_failed", error_type=type(error).__name__, exc_info=error)
        seen = now
