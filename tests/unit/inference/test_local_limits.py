"""A worker's own share of the limits, while the database is away; and what a provider means by its limits."""

from __future__ import annotations

import pytest

from activities.inference.buckets import Alternative, Ask, Bucket, BucketKind, Demand, Measure, Postponed, Slot
from activities.inference.local_limits import LocalLimits
from activities.inference.told_limits import meant, refusing
from workflows.contracts.inference import Priority
from workflows.contracts.messages import LimitKind, ToldLimit


def bucket(name: str, limit: float = 600, measure: Measure = Measure.REQUESTS, kind: BucketKind = BucketKind.RATE) -> Bucket:
    return Bucket(name, kind, measure, limit, 60.0, 0.1)


def ask(*demands: tuple[Bucket, float], horizon_s: float = 1e6) -> Ask:
    return Ask("r:1", Priority.NORMAL, (Alternative("p:m", tuple(Demand(*each) for each in demands)),), horizon_s, 120.0)


@pytest.mark.parametrize("share", [0.05, 0.1, 1.0])
async def test_in_a_period_no_more_passes_than_the_share_and_one_call(share: float) -> None:
    local, wanted = LocalLimits(share), ask((bucket("provider:p requests/min"), 1))
    given = [local.acquire(wanted, {}, 1e6) for _ in range(200)]
    delays = [each.delay_s for each in given if isinstance(each, Slot)]
    assert len(delays) == 200
    for start in delays:
        assert sum(start <= delay < start + 60.0 - 0.01 for delay in delays) <= 600 * 0.9 * share + 1


async def test_no_slot_is_given_further_ahead_than_callers_wait() -> None:
    local, wanted = LocalLimits(0.1), ask((bucket("provider:p requests/min", 60), 1))
    given = [local.acquire(wanted, {}, 2.0) for _ in range(20)]
    assert isinstance(given[0], Slot)
    assert all(isinstance(each, Postponed) and each.wait_s < 12 for each in given[1:]), "who is sent away is charged nothing"


async def test_who_waits_is_passed_by_more_urgent_calls_only() -> None:
    """The database being away, the calls of one worker keep their order by themselves."""
    local, slow = LocalLimits(0.1), bucket("provider:p requests/min", 600)
    demands = (Alternative("p:m", (Demand(slow, 1),)),)

    def wanted(ticket: str, priority: Priority, passed_by_s: float) -> Ask:
        return Ask(ticket, priority, demands, 1e6, passed_by_s)

    for n in range(3):
        assert isinstance(local.acquire(wanted(f"r:{n}", Priority.NORMAL, 120.0), {}, 2.5), Slot)
    told = [local.acquire(wanted(f"w:{n}", Priority.NORMAL, 120.0), {}, 2.5) for n in range(3)]
    waits_s = [each.wait_s for each in told if isinstance(each, Postponed)]
    assert waits_s == pytest.approx([10 / 3, 40 / 9, 50 / 9], abs=0.5), "one after the other"
    again = local.acquire(wanted("w:2", Priority.NORMAL, 120.0), {}, 5.0)
    assert isinstance(again, Postponed), "coming back sooner is no way past the others"
    assert isinstance(local.acquire(wanted("u:1", Priority.URGENT, 0.0), {}, 5.0), Slot)


async def test_calls_in_the_air_are_held_to_the_share_and_at_least_one_goes() -> None:
    air = bucket("provider:p concurrency", 5, Measure.CONCURRENCY, BucketKind.CONCURRENCY)
    local = LocalLimits(0.1)
    assert isinstance(local.acquire(ask((air, 1)), {}, 2.0), Slot)
    assert isinstance(local.acquire(ask((air, 1)), {air.name: 1.0}, 2.0), Postponed)


ACCOUNT, KEY, MODEL, TENANT = (bucket(f"{owner} requests/min") for owner in ("provider:p", "key:p/main", "model:p:m", "tenant:t"))
TOKENS = bucket("provider:p tokens/min", 9000, Measure.TOKENS)


def route(*buckets: Bucket) -> Alternative:
    return Alternative("p:m", tuple(Demand(each, 1) for each in buckets))


def test_a_refusal_is_taken_for_the_most_particular_limits_that_it_can_mean() -> None:
    assert refusing(route(TENANT, ACCOUNT, TOKENS)) == (ACCOUNT, TOKENS)
    assert refusing(route(ACCOUNT, KEY)) == (KEY,)
    assert refusing(route(ACCOUNT, KEY, MODEL)) == (MODEL,)
    assert refusing(route(TENANT)) == ()


def test_a_told_limit_is_taken_for_the_one_whose_figure_is_nearest() -> None:
    small = bucket("model:p:m requests/min", 50)
    assert meant(route(ACCOUNT, small), ToldLimit(kind=LimitKind.REQUESTS, limit=500)) == ACCOUNT
    assert meant(route(ACCOUNT, small), ToldLimit(kind=LimitKind.REQUESTS, remaining=3)) == small
    assert meant(route(ACCOUNT, TOKENS), ToldLimit(kind=LimitKind.TOKENS, limit=10)) == TOKENS
    assert meant(route(TENANT), ToldLimit(kind=LimitKind.REQUESTS, limit=600)) is None
