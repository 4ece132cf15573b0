"""What every worker does for all of them beside its calls: settling what was left open, and forgetting what is old."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import structlog

from state import batches, model_calls, retention
from state.background import end
from state.pool import Database
from workflows.contracts import policies
from workflows.contracts.errors import UnavailableError
from workflows.contracts.inference import RetentionSettings

log = structlog.get_logger("holdfast.inference")

SWEEP_EVERY_S: Final = 60.0
ORPHANED_AFTER_S: Final = policies.MODEL_CALL.start_to_close_s + policies.RECORD_FOR_S + 60.0
ABANDONED_AFTER_S: Final = 3 * 86_400.0
"""A place in a batch that nobody asks for: every run gives a batch up much earlier."""
FORGET_EVERY_S: Final = 300.0


@contextlib.asynccontextmanager
async def housekeeping(database: Database, settings: Callable[[], RetentionSettings]) -> AsyncIterator[None]:
    """Keep house for the length of the block. With the database away the next round comes as it would."""

    async def settle() -> None:
        if found := await model_calls.settle_orphans(database, ORPHANED_AFTER_S):
            log.warning("books.orphans_settled", calls=found)
        if found := await batches.settle_abandoned(database, ABANDONED_AFTER_S):
            log.warning("books.batches_settled", calls=found)

    async def forget() -> None:
        kept = settings()
        if gone := await retention.forget_old(database, books_days=kept.books_days, notes_days=kept.notes_days):
            log.info("retention.forgotten", **gone)

    rounds = ((SWEEP_EVERY_S, "books.sweep", settle), (FORGET_EVERY_S, "retention.round", forget))
    tasks = [asyncio.create_task(_again_and_again(*each)) for each in rounds]
    try:
        yield
    finally:
        for task in tasks:
            await end(task)


async def _again_and_again(every_s: float, event: str, do: Callable[[], Awaitable[Any]]) -> None:
    while True:
        await asyncio.sleep(every_s * random.uniform(0.8, 1.2))  # noqa: S311 - workers that began together part
        try:
            await do()
        except UnavailableError:
            log.warning(f"{event}_waits_for_database")
        except Exception as error:  # whatever it was, the next round must come
            log.error(f"{event}_failed", error_type=type(error).__name__, exc_info=error)
