"""A run as it happens: steps and changes of status, with a cursor to go on from."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from client import results, visibility
from client.backend import Backend
from client.steps import StepReport, read_steps
from client.visibility import RunSummary
from state import runs
from workflows.contracts.errors import FailureClass, InvalidInputError, UnavailableError, UnknownRunError
from workflows.contracts.messages import Frozen
from workflows.contracts.runs import RunStatus

POLL_S: Final = 0.25
POLL_MAX_S: Final = 2.0
"""A run that does nothing for a while is asked less often."""
_TURN_STEPS: Final = 65
"""A tool's step is named by its turn's model call, at most so many steps before it: that is read again."""
_RANGE: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
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
            found = _RANGE.fullmatch(part)
            if found is None:
                raise InvalidInputError(f"{text!r:.60} is no cursor of an event.")
            told.update(range(int(found[1]), int(found[2] or found[1]) + 1))
        return cls(frozenset(told))

    def after(self, steps: Iterable[int]) -> Cursor:
        """The cursor with these steps told."""
        return Cursor(self.told | set(steps))

    def complete_through(self) -> int:
        """The step up to which nothing is missing; -1 when that is not even the first."""
        through = -1
        while through + 1 in self.told:
            through += 1
        return through

    def __str__(self) -> str:
        ranges: list[list[int]] = []
        for step in sorted(self.told):
            if ranges and step == ranges[-1][1] + 1:
                ranges[-1][1] = step
            else:
                ranges.append([step, step])
        return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


async def follow(backend: Backend, run_id: str, after: str | None) -> AsyncIterator[RunEvent]:
    """Tell each step once, in order of its number within what is new, and every change of status, until the run has ended."""
    cursor = Cursor.parse(after)
    await runs.books(backend.database, run_id)
    told: RunSummary | None = None
    pause_s = POLL_S
    while True:
        now, steps = await _look(backend, run_id, cursor)
        news = False
        for step in steps:
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


async def _look(backend: Backend, run_id: str, cursor: Cursor) -> tuple[RunSummary, tuple[StepReport, ...]]:
    """The run and its steps that may be new. An outage is waited out, and so is a run that is just being started."""
    first_trouble: float | None = None
    while True:
        try:
            # Status first: what a run wrote before it ended is then surely read before its end is told.
            now = await visibility.summary(backend, run_id)
            return now, await read_steps(backend.database, run_id, after_step=cursor.complete_through() - _TURN_STEPS)
        except (UnavailableError, UnknownRunError) as error:
            patience_s = results.OUTAGE_PATIENCE_S if isinstance(error, UnavailableError) else START_PATIENCE_S
            first_trouble = first_trouble or time.monotonic()
            if time.monotonic() - first_trouble > patience_s:
                raise
        await asyncio.sleep(POLL_S)


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
