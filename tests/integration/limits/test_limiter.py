"""Slots under limits that several workers share, in PostgreSQL."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from activities.inference.limiter import Limiter, Postponed, Slot
from state import limits
from state.pool import Database
from tests.integration.limits.asking import ask, calls, requests, tokens
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import Priority
from workflows.contracts.messages import LimitKind, ToldLimit, Usage


def given(answer: Slot | Postponed) -> Slot:
    assert isinstance(answer, Slot), answer
    return answer


async def test_slots_are_a_burst_and_then_the_rate_over_two_workers(limits_database: Database) -> None:
    bucket = requests(60, headroom=0.1)
    async with Limiter(limits_database, worker="a").open() as one, Limiter(limits_database, worker="b").open() as two:
        answers = [given(await (one, two)[n % 2].acquire(ask(f"r:{n}", (bucket, 1)))) for n in range(8)]
    slots = [answer.lease.slot_at for answer in answers]
    assert slots == sorted(slots)
    assert answers[4].delay_s < 0.3
    assert [later - earlier for earlier, later in itertools.pairwise(slots[5:])] == pytest.approx([60 / 54] * 2, abs=0.05)


async def test_a_reserved_slot_is_kept_under_its_ticket_and_taken_once(limits_database: Database) -> None:
    bucket = requests(60, headroom=0.0)
    async with Limiter(limits_database, worker="a").open() as one, Limiter(limits_database, worker="b").open() as two:
        answers = [given(await one.acquire(ask(f"r:{n}", (bucket, 1)))) for n in range(4)]
        last = answers[-1]
        assert last.delay_s > 2
        assert not last.lease.held
        again = given(await two.acquire(ask("r:3", (bucket, 1))))
        assert again.lease.slot_at == pytest.approx(last.lease.slot_at), "another worker finds it by its ticket"
        assert again.told_s == pytest.approx(last.delay_s)


async def test_a_backlog_is_postponed_with_its_wait_and_an_urgent_call_passes_it(limits_database: Database) -> None:
    bucket = requests(60, headroom=0.0)
    async with Limiter(limits_database, worker="a").open() as limiter:
        answers = [await limiter.acquire(ask(f"r:{n}", (bucket, 1))) for n in range(30)]
        postponed = [answer for answer in answers if isinstance(answer, Postponed)]
        assert [answer.wait_s for answer in postponed] == pytest.approx([n + 1 for n in range(30 - len(postponed), 30)], abs=0.7)
        assert postponed[0].limit == bucket.name
        urgent = given(await limiter.acquire(ask("u:1", (bucket, 1), priority=Priority.URGENT)))
        assert urgent.delay_s < 8
    waiting = await limits.waiting(limits_database)
    assert sum(not each.reserved for each in waiting) == len(postponed)


async def test_a_saturated_model_does_not_block_another_on_the_same_account(limits_database: Database) -> None:
    account, slow = requests(600, headroom=0.1), requests(12, "model:p:slow requests/min", headroom=0.1)
    async with Limiter(limits_database, worker="a").open() as limiter:
        for n in range(20):
            await limiter.acquire(ask(f"s:{n}", (account, 1), (slow, 1)))
        assert isinstance(await limiter.acquire(ask("s:20", (account, 1), (slow, 1))), Postponed)
        assert given(await limiter.acquire(ask("f:1", (account, 1)))).delay_s == 0


async def test_calls_in_the_air_are_counted_over_workers_and_a_dead_ones_end(limits_database: Database) -> None:
    bucket = calls(2)
    async with Limiter(limits_database, worker="a").open() as one, Limiter(limits_database, worker="b").open() as two:
        first = given(await one.acquire(ask("r:1", (bucket, 1))))
        given(await two.acquire(ask("r:2", (bucket, 1))))
        assert isinstance(await two.acquire(ask("r:3", (bucket, 1))), Postponed)
        one.settle(first.lease, Usage(input_tokens=1))
        given(await one.acquire(ask("r:4", (bucket, 1))))
        assert isinstance(await two.acquire(ask("r:3", (bucket, 1))), Postponed)
        await limits_database.execute("update limit_holds set worker = 'dead', expires_at = 0 where worker = 'a'")
        given(await two.acquire(ask("r:3", (bucket, 1))))


async def test_what_was_not_used_is_given_back_and_what_was_too_little_is_charged(limits_database: Database) -> None:
    bucket = tokens(6000, headroom=0.1)
    async with Limiter(limits_database, worker="a").open() as limiter:
        slot = given(await limiter.acquire(ask("r:1", (bucket, 500))))
        limiter.settle(slot.lease, Usage(input_tokens=100, output_tokens=100))
        await limiter.acquire(ask("r:2", (bucket, 1)))
        booked = (await limits.standing(limits_database))[0].booked_s
        assert booked == pytest.approx(201 / 90, abs=0.3)
        limiter.settle(given(await limiter.acquire(ask("r:3", (bucket, 100)))).lease, Usage(input_tokens=400))
        await limiter.acquire(ask("r:4", (bucket, 1)))
        assert (await limits.standing(limits_database))[0].booked_s == pytest.approx(602 / 90, abs=0.5)


async def test_a_provider_is_believed_when_it_says_less(limits_database: Database) -> None:
    bucket = requests(600, headroom=0.1)
    async with Limiter(limits_database, worker="a").open() as one, Limiter(limits_database, worker="b").open() as two:
        slot = given(await one.acquire(ask("r:1", (bucket, 1))))
        one.told(slot.lease, [ToldLimit(kind=LimitKind.REQUESTS, limit=60, remaining=0)])
        one.settle(slot.lease, Usage())
        await one.acquire(ask("r:2", (bucket, 1)))
        assert given(await two.acquire(ask("r:3", (bucket, 1)))).delay_s > 1.0
        assert (await limits.standing(limits_database))[0].in_force == pytest.approx(54)


async def test_a_cool_down_holds_all_workers(limits_database: Database) -> None:
    bucket = requests(600)
    async with Limiter(limits_database, worker="a").open() as one, Limiter(limits_database, worker="b").open() as two:
        one.cool_down([bucket], 3.0)
        await one.acquire(ask("r:1", (bucket, 1)))
        assert given(await two.acquire(ask("r:2", (bucket, 1)))).delay_s > 2.5


async def test_a_call_larger_than_its_limit_is_refused_with_the_limits_name(limits_database: Database) -> None:
    async with Limiter(limits_database, worker="a").open() as limiter:
        with pytest.raises(StepError, match=r"tokens/min.*never admits more than 900") as refused:
            await limiter.acquire(ask("r:1", (tokens(1000), 950)))
    assert refused.value.failure_class is FailureClass.CALLER
    assert refused.value.code == "larger_than_limit"


async def test_a_clock_that_went_back_stops_nobody(limits_database: Database) -> None:
    bucket = requests(600)
    async with Limiter(limits_database, worker="a").open() as limiter:
        await limiter.acquire(ask("r:1", (bucket, 1)))
        await limits_database.execute("update limit_buckets set tat = tat + 3600, seen_at = seen_at + 3600, idle_at = idle_at + 3600")
        assert given(await limiter.acquire(ask("r:2", (bucket, 1)))).delay_s == 0


async def test_a_caller_that_is_cancelled_gives_back_what_it_was_given(limits_database: Database) -> None:
    bucket = calls(1)
    async with Limiter(limits_database, worker="a").open() as limiter:
        gone = asyncio.create_task(limiter.acquire(ask("r:1", (bucket, 1))))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        given(await limiter.acquire(ask("r:2", (bucket, 1))))
