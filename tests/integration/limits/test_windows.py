"""No window of one period lets more pass than the limit, in orders that nobody thought of; and who passes whom, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from activities.inference.limiter import Limiter, Slot
from state.pool import Database
from tests.integration.limits.asking import ask, requests
from tests.integration.limits.clock import Clock
from tests.integration.limits.playing import Game
from workflows.contracts.inference import Priority

WORKERS = st.integers(0, 2)
ASKS = st.tuples(
    st.just("ask"), WORKERS, st.sampled_from([(0,), (1,), (0, 1)]), st.integers(1, 60).map(float), st.sampled_from(list(Priority))
)
ENDS = st.tuples(st.just("settle"), st.integers(0, 9), st.sampled_from([0.0, 0.2, 0.5, 1.0, 1.4]))
TIMES = st.tuples(st.just("go_on"), st.sampled_from([0.05, 0.2, 0.5, 1.0, 2.5]))
MOVES = st.lists(st.one_of(ASKS, ASKS, ASKS, ENDS, TIMES), min_size=10, max_size=60)
SETTINGS = settings(
    max_examples=200, deadline=None, derandomize=True, phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck)
)


def test_no_window_lets_more_pass_than_the_limit_in_any_order(limits_url: str) -> None:
    with asyncio.Runner() as runner:
        exits = contextlib.AsyncExitStack()

        async def opened() -> tuple[Clock, list[Limiter]]:
            database = await exits.enter_async_context(Database.open(limits_url, max_size=4))
            clock = await Clock.put_into(database)
            return clock, [await exits.enter_async_context(Limiter(database, worker=name).open()) for name in "abc"]

        clock, limiters = runner.run(opened())

        @SETTINGS
        @given(MOVES, st.sampled_from([8.0, 20.0, 60.0]), st.sampled_from([60.0, 200.0]), st.sampled_from([0.1, 0.3]))
        def play(moves: list[tuple[Any, ...]], requests_a_period: float, tokens_a_period: float, headroom: float) -> None:
            async def played() -> None:
                game = Game(clock, limiters, requests_a_period, tokens_a_period, headroom)
                for what, *how in moves:
                    await getattr(game, what)(*how)
                await game.go_on(6.0)
                game.check()

            runner.run(played())

        try:
            play()
        finally:
            runner.run(exits.aclose())


async def test_a_full_limit_is_used_to_the_last_of_what_it_gives(limits_database: Database, limits_clock: Clock) -> None:
    """The bound would hold if nothing passed at all: a backlog passes at the rate, to a call."""
    async with Limiter(limits_database, worker="a").open() as limiter:
        game = Game(limits_clock, [limiter], 20.0, 1e6, 0.1)
        for _ in range(60):
            await game.ask(0, (0,), 1.0, Priority.NORMAL)
        began = limits_clock.now_s
        for _ in range(40):
            await game.go_on(0.1)
        game.check()
        passed = sum(call.lease.slot_at < began + 4.0 for call in game.calls)
    assert passed >= 0.97 * 4.0 * 9.0, "18 in 2 s, which is 20 less the headroom"


async def test_a_low_call_is_passed_by_urgent_ones_only_so_long(limits_database: Database, limits_clock: Clock) -> None:
    bucket = requests(10, period_s=2.0)
    patient = 6.0
    slots: dict[str, float] = {}
    asked: dict[str, float] = {}
    due: dict[str, float] = {}

    async with Limiter(limits_database, worker="a").open() as limiter:

        async def come(ticket: str) -> None:
            asked.setdefault(ticket, limits_clock.now_s)
            low = ticket.startswith("low")
            found = ask(ticket, (bucket, 1), priority=Priority.LOW if low else Priority.URGENT, horizon_s=2.0)
            given_ = await limiter.acquire(type(found)(ticket, found.priority, found.alternatives, 2.0, patient if low else 0.0))
            due.pop(ticket, None)
            if isinstance(given_, Slot):
                slots[ticket] = given_.lease.slot_at
            else:
                due[ticket] = limits_clock.now_s + given_.wait_s

        for n in range(20):
            await come(f"u:{n}")
        await come("low:1")
        number = 20
        while "low:1" not in slots and limits_clock.now_s < asked["low:1"] + 60:
            await limits_clock.go_on(0.25)
            for _ in range(2):
                await come(f"u:{number}")
                number += 1
            for ticket in [each for each, at in due.items() if at <= limits_clock.now_s]:
                await come(ticket)
    assert "low:1" in slots, "urgent calls came at twice the rate, for ever"
    passing = [ticket for ticket in slots if ticket != "low:1" and asked[ticket] > asked["low:1"] and slots[ticket] < slots["low:1"]]
    late = [ticket for ticket in passing if asked[ticket] > asked["low:1"] + patient]
    assert passing, "more urgent calls go first"
    assert len(late) <= 2.0 * 4.5 + 1, "later than that only what fits into a horizon"


async def test_a_burst_of_other_priorities_goes_by_rank(limits_database: Database, limits_clock: Clock) -> None:
    bucket = requests(10, period_s=2.0)
    async with Limiter(limits_database, worker="a").open() as limiter:
        for n in range(40):
            await limiter.acquire(ask(f"b:{n}", (bucket, 1), priority=Priority.BATCH))
        waits = [(await limiter.acquire(ask(f"{each}:1", (bucket, 1), priority=each))) for each in (Priority.LOW, Priority.URGENT)]
        told = [given_.delay_s if isinstance(given_, Slot) else given_.wait_s for given_ in waits]
        last = await limiter.acquire(ask("b:40", (bucket, 1), priority=Priority.BATCH))
    assert told[1] <= told[0] + 0.3, "the more urgent one does not stand behind the other"
    assert not isinstance(last, Slot)
    assert last.wait_s > max(told)
