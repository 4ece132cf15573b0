"""Every wait that steps were told, as `holdfast limits` shows it, and how far off it was; watched in the database."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import asyncpg

LOOK_EVERY_S = 0.2
OUTAGES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
TOLD = "select ticket, expected_at, priority, limit_now() as at from limit_tickets where expected_at > limit_now()"
STARTED = "select run_id || ':' || step as ticket, extract(epoch from min(started_at))::float8 as at from model_calls group by 1"


@dataclass(frozen=True)
class Telling:
    """One wait that was told to one step."""

    ticket: str
    told_at: float
    expected_at: float
    priority: int

    def off_s(self, started_at: float) -> float:
        """Seconds between the moment told and the call."""
        return abs(started_at - self.expected_at)

    def well(self, started_at: float) -> bool:
        """Within 10 % or 2 s."""
        return self.off_s(started_at) <= max(2.0, 0.1 * (self.expected_at - self.told_at))


@dataclass(frozen=True)
class Told:
    """How well it was told."""

    count: int
    error_p95_s: float
    well: float


@dataclass
class Tellings:
    """What was told, in order."""

    dsn: str
    found: list[Telling] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[Tellings]:
        """Look for the length of the block, through outages too; then learn when the calls were made."""
        watching = asyncio.create_task(self._watch())
        try:
            yield self
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    async def learn_the_truth(self) -> None:
        """Read when each call was made."""
        connection = await asyncpg.connect(self.dsn)
        try:
            self.started = {row["ticket"]: row["at"] for row in await connection.fetch(STARTED)}
        finally:
            await connection.close()

    def all(self, since: float = 0.0) -> Told:
        """Every telling counts that was made since then, in seconds since the epoch."""
        return self._judged([each for each in self.found if each.told_at >= since])

    def first(self) -> Told:
        """Only the first of each step."""
        firsts: dict[str, Telling] = {}
        for each in self.found:
            firsts.setdefault(each.ticket, each)
        return self._judged(list(firsts.values()))

    def _judged(self, tellings: Sequence[Telling]) -> Told:
        pairs = [(each, self.started[each.ticket]) for each in tellings if each.ticket in self.started]
        errors = [each.off_s(at) for each, at in pairs]
        if len(errors) < 2:
            return Told(len(errors), max(errors, default=0.0), 1.0)
        p95_s = statistics.quantiles(errors, n=20, method="inclusive")[18]
        return Told(len(errors), p95_s, sum(each.well(at) for each, at in pairs) / len(pairs))

    async def _watch(self) -> None:
        last: dict[str, float] = {}
        while True:
            with contextlib.suppress(*OUTAGES):
                connection = await asyncpg.connect(self.dsn)
                try:
                    await self._look(connection, last)
                finally:
                    connection.terminate()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, connection: asyncpg.Connection, last: dict[str, float]) -> None:
        while True:
            for row in await connection.fetch(TOLD):
                if last.get(row["ticket"]) != row["expected_at"]:
                    last[row["ticket"]] = row["expected_at"]
                    self.found.append(Telling(row["ticket"], row["at"], row["expected_at"], row["priority"]))
            await asyncio.sleep(LOOK_EVERY_S)
