"""Tells people of dead letters: in log and metrics when one is filed, and by an alert, once a day, while one stays open for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from activities.inference.alerts import Alerts
from state import dead_letter_lists
from state.background import end
from state.dead_letter_lists import DeadLetter
from state.pool import Database
from telemetry.inference import record_dead_letter
from workflows.contracts.errors import UnavailableError
from workflows.contracts.inference import AlertSettings
from workflows.contracts.people import Filed, RecordRequest

log = structlog.get_logger("holdfast.dead_letters")

LOOK_EVERY_S: Final = 60.0
AGAIN_AFTER_S: Final = 86_400.0
AT_ONCE: Final = 100
"""How many are told of in one look: more would flood whoever is told, and the rest is told of a look later."""


def tell_filed(request: RecordRequest, filed: Filed) -> None:
    """Log and count a step that was filed; whom it concerns is notified by the record's outbox."""
    parked, agent = filed.parked, request.agent.name
    log.warning(
        "dead_letter.filed",
        run=request.run_id,
        letter=parked.letter,
        step=parked.step,
        agent=agent,
        tenant=request.tenant,
        what=parked.what,
        failure_class=parked.failure_class.value,
    )
    record_dead_letter(parked.failure_class.value, agent=agent)


@contextlib.asynccontextmanager
async def open_reporter(
    database: Database, settings: Callable[[], AlertSettings], *, look_every_s: float = LOOK_EVERY_S
) -> AsyncIterator[None]:
    """Report old dead letters for the length of the block; of all workers one reports each."""
    async with Alerts(database, settings).open() as alerts:
        looking = asyncio.create_task(_look_always(database, settings, alerts, look_every_s))
        try:
            yield
        finally:
            await end(looking)


async def _look_always(database: Database, settings: Callable[[], AlertSettings], alerts: Alerts, look_every_s: float) -> None:
    while True:
        try:
            for letter in await dead_letter_lists.take_old(
                database, older_than_s=settings().dead_letter_after_s, again_after_s=AGAIN_AFTER_S, limit=AT_ONCE
            ):
                _raise(alerts, letter)
        except UnavailableError:
            log.warning("dead_letters.report_waits_for_database")
        except Exception as error:  # whatever it was, the next look must come
            log.error("dead_letters.report_failed", error_type=type(error).__name__, exc_info=error)
        await asyncio.sleep(look_every_s)


def _raise(alerts: Alerts, letter: DeadLetter) -> None:
    alerts.raise_(
        "dead_letter_old",
        letter.id,
        (letter.reported_at or datetime.now(UTC)).isoformat(timespec="seconds"),
        run_id=letter.run_id,
        letter=letter.letter,
        step=letter.step,
        agent=letter.agent,
        tenant=letter.tenant,
        failure_class=letter.failure_class,
        what=letter.what,
        since=letter.parked_at.isoformat(timespec="seconds"),
    )
