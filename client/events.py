"""A run as it happens: steps and changes of status, with a cursor to go on from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from client import visibility
from client.backend import Backend
from client.steps import StepReport, read_steps
from client.visibility import RunSummary
from state import runs
from workflows.contracts.errors import FailureClass, InvalidInputError, UnknownRunError
from workflows.contracts.messages import Frozen
from workflows.contracts.runs import RunStatus

POLL_S: Final = 0.25
POLL_MAX_S: Final = 2.0
"""A run that does nothing for a while is asked less often."""
START_PATIENCE_S: Final = 5.0
"""How long a run may be in the database and not yet in Temporal."""


class StatusEvent(Frozen):
    """The run stands elsewhere now; the last event of every run is one with `ended`."""

    kind: Literal["status"] = "status"
    run_id: str
    cursor: str
    status: RunStatus
    failure_class: FailureClass | None = None
    ended: bool = False
    at: datetime


class StepEvent(Frozen):
    """A step has its result."""

    kind: Literal["step"] = "step"
    run_id: str
    cursor: str
    step: StepReport
    at: datetime


RunEvent = StatusEvent | StepEvent


@dataclass(frozen=True, slots=True)
class Cursor:
    """Which steps were told. Steps of one turn end in any order, so it is a set, written as ranges: `0-4,6`."""

    told: frozenset[int] = frozenset()

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """Read a cursor.

        Raises:
            InvalidInputError: the text is none.
        """
        told: set[int] = set()
        for part in filter(None, (text or "").split(",")):
            first, _, last = part.partition("-")
            if not (first.isdecimal() and (last or first).isdecimal()) or int(last or first) > _STEP_LIMIT:
                raise InvalidInputError(f"{text!r:.60} is no cursor of an event.")
            told.update(range(int(first), int(last or first) + 1))
        return cls(frozenset(told))

    def after(self, steps: Iterable[int]) -> Cursor:
        """The cursor with these steps told."""
        return Cursor(self.told | set(steps))

    def __str__(self) -> str:
        ranges: list[list[int]] = []
        for step in sorted(self.told):
            if ranges and step == ranges[-1][1] + 1:
                ranges[-1][1] = step
            else:
                ranges.append([step, step])
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


_STEP_LIMIT: Final = 1_000_000


async def follow(backend: Backend, run_id: str, after: str | None) -> AsyncIterator[RunEvent]:
    """Tell each step once, in order of its number within what is new, and every change of status, until the run has ended."""
    cursor = Cursor.parse(after)
    await runs.books(backend.database, run_id)
    told: RunSummary | None = None
    pause_s = POLL_S
    while True:
        # Status first: what a run wrote before it ended is then surely read before its end is told.
        now = await _summary(backend, run_id)
        news = False
        for step in await read_steps(backend.database, run_id):
            if step.done and step.step not in cursor.told:
                cursor, news = cursor.after([step.step]), True
                yield StepEvent(run_id=run_id, cursor=str(cursor), step=step, at=step.ended_at or datetime.now(UTC))
        if told is None or told.status is not now.status:
            told, news = now, True
            yield _status_event(now, cursor)
        if now.status in visibility.ENDED:
            return
        pause_s = POLL_S if news else min(POLL_MAX_S, pause_s * 1.3)
        await asyncio.sleep(pause_s)


async def _summary(backend: Backend, run_id: str) -> RunSummary:
    """Where the run stands; a run that is just being started is waited for."""
    try:
        async with asyncio.timeout(START_PATIENCE_S):
            while True:
                try:
                    return await visibility.summary(backend, run_id)
                except UnknownRunError as error:
                    unknown = error
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise unknown from None


def _status_event(now: RunSummary, cursor: Cursor) -> StatusEvent:
    ended = now.status in visibility.ENDED
    return StatusEvent(
        run_id=now.id,
        cursor=str(cursor),
        status=now.status,
        failure_class=now.failure_class,
        ended=ended,
        at=now.ended_at or datetime.now(UTC),
    )
