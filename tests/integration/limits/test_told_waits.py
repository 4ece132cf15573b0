"""The waits that are told, and that more urgent calls pass only as far as they hold."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field

from activities.inference.limiter import Limiter, Postponed, Slot
from state.pool import Database
from tests.integration.limits.asking import DEFAULTS, ask, requests, tokens
from tests.integration.limits.clock import Clock
from workflows.contracts.inference import LimiterSettings, Priority

COME_BACK = 0.6
"""As in admission: the part of a wait after which a step asks again."""


@dataclass
class Line:
    """Steps that ask, come back when they were told, and go when their slot has come."""

    limiter: Limiter
    clock: Clock
    due: list[tuple[float, int, str, Priority]] = field(default_factory=list)
    told: list[tuple[str, float, float]] = field(default_factory=list)
    """Ticket, moment of telling, moment told."""
    gone: dict[str, float] = field(default_factory=dict)
    places: itertools.count[int] = field(default_factory=itertools.count)

    def comes(self, at_s: float, ticket: str, priority: Priority = Priority.NORMAL) -> None:
        heapq.heappush(self.due, (at_s, next(self.places), ticket, priority))

    async def play(self, *, size: float = 170.0) -> None:
        """Until all have gone. Two limits bind by turns, as the sizes differ."""
        account, both = requests(100, headroom=0.05), tokens(17_000, headroom=0.05)
        while self.due:
            at_s, _, ticket, priority = heapq.heappop(self.due)
            await self.clock.move_to(at_s)
            amount = size * (0.7 if ticket.endswith("0") else 1.03)
            given = await self.limiter.acquire(ask(ticket, (account, 1), (both, amount), priority=priority))
            now_s = self.clock.now_s
            if isinstance(given, Postponed):
                self.told.append((ticket, now_s, now_s + given.wait_s))
                self.comes(now_s + max(0.05, min(given.wait_s - 1.0, given.wait_s * COME_BACK)), ticket, priority)
            elif not given.lease.held:
                self.told.append((ticket, now_s, given.lease.slot_at))
                self.comes(given.lease.slot_at - 1.0, ticket, priority)
            else:
                self.gone[ticket] = given.lease.slot_at

    def well(self) -> float:
        """The part of the tellings that was within 10 % or 2 s."""
        off = [abs(self.gone[ticket] - expected) <= max(2.0, 0.1 * (expected - at)) for ticket, at, expected in self.told]
        return sum(off) / len(off)


async def test_every_wait_is_told_within_a_tenth_or_two_seconds_though_urgent_calls_come(
    limits_database: Database, limits_clock: Clock
) -> None:
    async with Limiter(limits_database, worker="a").open() as limiter:
        line, began = Line(limiter, limits_clock), limits_clock.now_s
        for n in range(60):
            line.comes(began + n * 0.3, f"n:{n}")
        for n in range(15):
            line.comes(began + 3.0 + n * 2.0, f"u:{n}", Priority.URGENT)
        await line.play()
    assert len(line.told) > 100, "a backlog was told its waits"
    assert line.well() >= 0.95
    urgent = [line.gone[f"u:{n}"] - (began + 3.0 + n * 2.0) for n in range(15)]
    assert sum(urgent) / 15 < 15.0, "the normal ones wait about 30 s by then"


async def test_a_wait_counts_all_in_front_whichever_limit_lets_them_wait(limits_database: Database, limits_clock: Clock) -> None:
    account, both = requests(60, headroom=0.1), tokens(60_000, headroom=0.1)
    async with Limiter(limits_database, worker="a").open() as limiter:
        for n in range(40):
            # Every other call is bound by the limit on tokens, the others by the one on requests; each takes a second of both.
            await limits_clock.go_on(0.001)
            await limiter.acquire(ask(f"r:{n}", (account, 1), (both, 1001 if n % 2 else 999)))
        last = await limiter.acquire(ask("last:1", (account, 1), (both, 1000)))
    assert isinstance(last, Postponed)
    assert 35 < last.wait_s < 46


async def test_an_urgent_call_passes_at_once_where_told_times_are_not_held(limits_database: Database, limits_clock: Clock) -> None:
    account = requests(60, headroom=0.1)
    for holds_s, passes in ((0.0, True), (45.0, False)):
        await limits_database.execute("truncate limit_buckets, limit_tickets, limit_lines")
        settings = LimiterSettings(told_holds_s=holds_s)
        async with Limiter(limits_database, settings, worker="a").open() as limiter:
            for n in range(30):
                await limits_clock.go_on(0.001)
                await limiter.acquire(ask(f"r:{n}", (account, 1)))
            waits = []
            for n in range(8):
                await limits_clock.go_on(0.001)
                given = await limiter.acquire(ask(f"u:{n}", (account, 1), priority=Priority.URGENT))
                waits.append(given.delay_s if isinstance(given, Slot) else given.wait_s)
        assert (waits[-1] < 16.0) is passes, waits
        assert waits[0] < 10.0, "one alone makes nobody later than it was told"


async def test_a_backlog_of_low_priority_holds_nobody_back(limits_database: Database, limits_clock: Clock) -> None:
    account = requests(60, headroom=0.1)
    async with Limiter(limits_database, worker="a").open() as limiter:
        for n in range(100):
            await limits_clock.go_on(0.001)
            await limiter.acquire(ask(f"low:{n}", (account, 1), priority=Priority.LOW))
        waits = []
        for n in range(12):
            await limits_clock.go_on(0.001)
            given = await limiter.acquire(ask(f"n:{n}", (account, 1)))
            waits.append(given.delay_s if isinstance(given, Slot) else given.wait_s)
    assert waits[-1] < 22.0, "its line is over 100 s long; what is given out already stays"
    assert DEFAULTS.told_holds_s > 0
