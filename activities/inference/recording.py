"""What is written down of a call when it has ended: its record, or why there is none."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from activities.edge import until_available
from activities.inference.asking import Answered, Kept
from state import model_calls
from state.pool import Database
from workflows.contracts.errors import StepError, UnavailableError

log = structlog.get_logger("holdfast.inference")


async def settle(database: Database, call_id: int, error: StepError) -> None:
    """Close the books of a failed attempt. With the database away the row stays open: the next attempt charges it as unknown."""
    close = model_calls.charge_unknown if error.spend_unknown else model_calls.fail
    try:
        await close(database, call_id, error.failure_class.value, str(error))
    except UnavailableError:
        log.warning("model.settle_postponed", call_id=call_id)


async def record(database: Database, call_id: int, answered: Answered, kept: Kept) -> dict[str, Any]:
    """Write the paid response, however long the database is away within reason, and even when the step is cancelled now."""
    writing = asyncio.ensure_future(
        until_available(
            lambda: model_calls.finish(
                database,
                call_id,
                turn=kept.turn,
                response=answered.response,
                price=answered.price,
                rows=kept.rows,
                sub_runs=kept.sub_runs,
            )
        )
    )
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await writing
        raise
