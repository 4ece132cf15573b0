"""Budgets over many runs: never passed by any number of calls at once, settled exactly, told when their soft line is passed."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from state import budgets, model_calls
from state.budgets import BudgetLine, BudgetState
from state.model_calls import Begun
from state.notices import Notices
from state.pool import Database
from tests.integration.state.ledger import WORST_USD, begin, books, finish, found, money, new_run, one_waits_for, request, states, sub_run

ZERO = Decimal(0)
PAID = Decimal("0.02")
DAY = BudgetLine("team-day", "team-day:acme", "day", cost_usd=10 * WORST_USD)
GUARD = """
alter table budget_periods
    add constraint budget_never_passed check (spent_usd + reserved_usd <= cost_limit_usd and spent_calls + reserved_calls <= call_limit),
    add constraint budget_never_below_nothing check (
        spent_usd >= 0 and reserved_usd >= 0 and unknown_usd between 0 and spent_usd and reserved_tokens >= 0 and reserved_calls >= 0)
"""
"""The database itself watches the budgets after every statement; for budgets whose limits stay as they are."""


@pytest.fixture
async def watched(guarded: Database) -> Database:
    """A database that refuses a budget which is passed."""
    await guarded.execute(GUARD)
    return guarded


async def state(database: Database, line: BudgetLine = DAY) -> BudgetState:
    """One budget as it stands."""
    (one,) = [each for each in await budgets.current(database) if each.budget == line.id]
    return one


async def charged(database: Database, run_id: str, *lines: BudgetLine, step: int = 1, **fields: Any) -> Begun:
    """A call that reserves its worst case, of 0.10 USD, in these budgets."""
    return await begin(
        database, run_id, step, cost_usd=100, min_output_tokens=fields.pop("min_output_tokens", 100), budgets=lines, **fields
    )


async def test_the_guard_of_these_tests_would_speak_up(watched: Database) -> None:
    await charged(watched, await new_run(watched, 100), DAY)
    with pytest.raises(asyncpg.CheckViolationError, match="budget_never_passed"):
        await watched.execute("update budget_periods set spent_usd = 2")


async def test_of_64_runs_at_once_on_a_budget_for_10_exactly_10_go(watched: Database, guarded_url: str) -> None:
    run_ids = [await new_run(watched, 100) for _ in range(64)]
    at_once = asyncio.Barrier(64)
    async with AsyncExitStack() as exits:
        pools = [await exits.enter_async_context(Database.open(guarded_url, max_size=8)) for _ in range(4)]

        async def call(place: int, run_id: str) -> str:
            await at_once.wait()
            return (await charged(pools[place % 4], run_id, DAY)).outcome

        outcomes = await asyncio.gather(*(call(place, run_id) for place, run_id in enumerate(run_ids)))
    assert (outcomes.count("go"), outcomes.count("over_budget")) == (10, 54)
    now = await state(watched)
    assert (now.reserved_usd, now.spent_usd, now.reserved_calls, now.share) == (10 * WORST_USD, ZERO, 10, 1.0)


@pytest.mark.parametrize(
    ("limits", "dimension"),
    [({"cost_usd": WORST_USD}, "cost_usd"), ({"tokens": 150, "cost_usd": None}, "tokens"), ({"calls": 1, "cost_usd": None}, "calls")],
)
async def test_a_refusal_names_the_budget_its_dimension_and_when_its_period_turns(
    guarded: Database, limits: dict[str, Any], dimension: str
) -> None:
    line = replace(DAY, **limits)
    wide = BudgetLine("all", "all", "hour", calls=1_000)
    first, second = await new_run(guarded, 100), await new_run(guarded, 100)
    begun = await charged(guarded, first, wide, line)
    refused = await charged(guarded, second, wide, line)
    (refusal,) = refused.refusals
    assert (refused.outcome, refused.refused_by) == ("over_budget", "team-day:acme")
    assert (refusal.budget, refusal.name, refusal.dimension, refusal.in_the_air) == ("team-day:acme", "team-day", dimension, True)
    assert refusal.turns_in_s is not None
    assert 0 <= refusal.turns_in_s <= 86_400
    assert await states(guarded, second) == []
    assert (await state(guarded, wide)).reserved_calls == 1, "a budget with room is not charged for a call that another refuses"

    await model_calls.fail(guarded, begun.call_id, "transient", "refused")
    assert (await charged(guarded, second, wide, line)).outcome == "go"


async def test_what_is_spent_for_good_is_not_called_in_the_air(guarded: Database) -> None:
    line = replace(DAY, cost_usd=WORST_USD)
    begun = await charged(guarded, await new_run(guarded, 100), line)
    await finish(guarded, begun.call_id)
    (refusal,) = (await charged(guarded, await new_run(guarded, 100), line)).refusals
    assert not refusal.in_the_air


async def test_a_run_without_money_is_refused_by_its_own_budget_beside_those_with_room(guarded: Database) -> None:
    run_id = await new_run(guarded, "0.05")
    refused = await begin(guarded, run_id, cost_usd="0.05", min_output_tokens=100, budgets=(DAY,))
    assert (refused.outcome, refused.refused_by) == ("over_budget", run_id)
    assert [(each.name, each.dimension, each.turns_in_s) for each in refused.refusals] == [("run", "cost_usd", None)]

    both = await begin(guarded, run_id, cost_usd="0.05", min_output_tokens=100, budgets=(replace(DAY, cost_usd=Decimal("0.01")),))
    assert [each.budget for each in both.refusals] == [run_id, "team-day:acme"]


async def test_an_answer_is_made_shorter_to_fit_what_is_left(guarded: Database) -> None:
    begun = await charged(guarded, await new_run(guarded, 100), replace(DAY, cost_usd=Decimal("0.045")), min_output_tokens=10)
    assert (begun.outcome, begun.max_output_tokens) == ("go", 45)


async def test_a_call_settles_to_what_it_cost_and_a_failed_one_gives_all_back(guarded: Database) -> None:
    first, second = await new_run(guarded, 100), await new_run(guarded, 100)
    one, two = await charged(guarded, first, DAY), await charged(guarded, second, DAY)
    await finish(guarded, one.call_id)
    await finish(guarded, one.call_id, "0.09")
    await model_calls.fail(guarded, two.call_id, "transient", "refused")
    await model_calls.fail(guarded, two.call_id, "transient", "refused")
    now = await state(guarded)
    assert (now.spent_usd, now.reserved_usd, now.unknown_usd) == (PAID, ZERO, ZERO)
    assert (now.spent_tokens, now.reserved_tokens, now.spent_calls, now.reserved_calls) == (27, 0, 1, 0)
    assert (await charged(guarded, first, DAY)).outcome == "recorded", "a retry charges nothing"
    assert (await state(guarded)).spent_calls == 1


async def test_unknown_spend_stays_charged_until_a_late_answer_tells(guarded: Database) -> None:
    run_id = await new_run(guarded, 100)
    first = await charged(guarded, run_id, DAY)
    second = await charged(guarded, run_id, DAY)
    now = await state(guarded)
    assert (now.spent_usd, now.unknown_usd, now.reserved_usd, now.spent_calls, now.reserved_calls) == (
        WORST_USD,
        WORST_USD,
        WORST_USD,
        1,
        1,
    )
    await finish(guarded, first.call_id)
    now = await state(guarded)
    assert (now.spent_usd, now.unknown_usd, now.reserved_usd, now.spent_tokens) == (PAID, ZERO, WORST_USD, 27)
    await finish(guarded, second.call_id, "0.01")
    now = await state(guarded)
    assert (now.spent_usd, now.reserved_usd, now.spent_calls, now.reserved_calls) == (PAID + Decimal("0.01"), ZERO, 2, 0)


async def test_a_call_is_settled_in_the_period_in_which_it_was_reserved(guarded: Database) -> None:
    run_id = await new_run(guarded, 100)
    begun = await charged(guarded, run_id, DAY)
    moved = "update budget_periods set starts_at = starts_at - interval '1 day' returning period_id"
    yesterday = await guarded.fetchval(moved)
    assert (await charged(guarded, await new_run(guarded, 100), DAY)).outcome == "go"
    await finish(guarded, begun.call_id)
    rows = await guarded.fetch("select spent_usd, reserved_usd, period_id = $1 as old from budget_periods order by starts_at", yesterday)
    assert [tuple(row) for row in rows] == [(PAID, ZERO, True), (ZERO, WORST_USD, False)]
    assert (await state(guarded)).spent_usd == ZERO, "only the period that is now is current"


async def test_the_soft_line_is_announced_once_and_left_a_tenth_below(guarded: Database) -> None:
    line = replace(DAY, soft=0.5)
    told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    async with Notices(guarded).open() as notices:
        notices.on(budgets.CHANNEL, lambda payload: told.put_nowait(json.loads(payload)) if payload else None)
        begun = [await charged(guarded, await new_run(guarded, 100), line) for _ in range(6)]
        async with asyncio.timeout(10):
            passed = await told.get()
        assert (passed["budget"], passed["name"], passed["passed"], passed["share"]) == ("team-day:acme", "team-day", True, 0.5)
        (soft,) = await budgets.past_soft_line(guarded)
        assert soft.soft_since is not None

        for one in begun[:2]:
            await model_calls.fail(guarded, one.call_id, "transient", "refused")
        assert [each.share for each in await budgets.past_soft_line(guarded)] == [0.4], "a tenth below it is not left yet"
        await model_calls.fail(guarded, begun[2].call_id, "transient", "refused")
        async with asyncio.timeout(10):
            left = await told.get()
        assert (left["passed"], left["share"]) == (False, 0.3)
        assert await budgets.past_soft_line(guarded) == []
        assert told.empty()


async def test_a_budget_lowered_below_what_is_spent_lets_nothing_begin_and_loses_nothing(guarded: Database) -> None:
    begun = await charged(guarded, await new_run(guarded, 100), DAY)
    lowered = replace(DAY, cost_usd=Decimal("0.05"))
    assert (await charged(guarded, await new_run(guarded, 100), lowered)).outcome == "over_budget"
    now = await state(guarded)
    assert (now.cost_limit_usd, now.share) == (Decimal("0.05"), 2.0)
    await finish(guarded, begun.call_id, "0.10")
    assert (await state(guarded)).spent_usd == Decimal("0.10")
    assert (await charged(guarded, await new_run(guarded, 100), DAY)).outcome == "go", "raised again, it goes on"


async def test_answers_from_the_cache_take_nothing_from_any_budget(guarded: Database) -> None:
    run_id = await new_run(guarded, 100)
    free = {"input_usd": ZERO, "output_usd": ZERO, "cache": "exact", "decision": {"saved_usd": "0.03"}}
    begun = await charged(guarded, run_id, **free)
    await finish(guarded, begun.call_id, 0)
    assert await money(guarded, run_id) == (ZERO, ZERO, ZERO)
    assert await budgets.current(guarded) == []
    assert await guarded.fetchval("select saved_usd from model_calls where run_id = $1", run_id) == Decimal("0.03")


async def test_calls_that_no_worker_can_still_have_in_the_air_are_charged_as_unknown(guarded: Database) -> None:
    old, new, batch = [await new_run(guarded, 100) for _ in range(3)]
    for run_id in (old, new):
        await charged(guarded, run_id, DAY)
    await charged(guarded, batch, DAY, batch=True)
    await guarded.execute("update model_calls set started_at = started_at - interval '1 hour' where run_id <> $1", new)
    assert await model_calls.settle_orphans(guarded, 600) == 1
    assert [await states(guarded, each) for each in (old, new, batch)] == [["unknown"], ["in_flight"], ["in_flight"]]
    now = await state(guarded)
    assert (now.unknown_usd, now.reserved_usd) == (WORST_USD, 2 * WORST_USD)
    assert await money(guarded, old) == (WORST_USD, ZERO, WORST_USD)


async def test_a_sweep_of_orphans_holds_no_budget_while_it_waits_for_a_run(guarded: Database, guarded_url: str) -> None:
    first, second = await new_run(guarded, 100), await new_run(guarded, 100)
    for run_id in (first, second):
        await charged(guarded, run_id, DAY)
    await guarded.execute("update model_calls set started_at = started_at - interval '1 hour'")
    holder = await asyncpg.connect(guarded_url)
    try:
        async with holder.transaction(), asyncio.timeout(10):
            await holder.execute("select lock_books($1)", second)
            sweep = asyncio.create_task(model_calls.settle_orphans(guarded, 600))
            await one_waits_for(holder)
            await holder.execute("select from budget_periods for update")
        assert await sweep == 2
    finally:
        await holder.close()


async def test_a_look_tells_what_is_known_of_a_step_and_reserves_nothing(guarded: Database) -> None:
    run_id = await new_run(guarded, 100)
    first = await charged(guarded, run_id, DAY, key="main")
    await finish(guarded, first.call_id)
    second = await charged(guarded, run_id, DAY, step=2)
    await model_calls.fail(guarded, second.call_id, "transient", "refused")
    before = await state(guarded)

    looked = await model_calls.look(guarded, request(run_id, 2))
    assert looked.turn is None
    assert [message.text for message in looked.messages] == ["hello", "the answer"]
    assert looked.failures == {"openai:gpt-5-mini": 1}
    assert looked.last is not None
    assert (looked.last.provider, looked.last.model, looked.last.key, looked.last.cached_tokens) == ("openai", "gpt-5-mini", "main", 5)
    assert (await model_calls.look(guarded, request(run_id, 1))).turn == {"call": first.call_id}
    assert replace(await state(guarded), turns_in_s=0) == replace(before, turns_in_s=0)


async def test_sub_runs_charge_their_ancestors_and_every_budget(watched: Database) -> None:
    root = await new_run(watched, 100)
    child = f"{root}.2"
    await found(watched, root, [sub_run(child, 100)])
    hour = BudgetLine("hour", "hour", "hour", cost_usd=Decimal(5), calls=100)
    begun = await charged(watched, child, DAY, hour, step=2)
    assert ((await books(watched, root)).reserved_usd, (await state(watched)).reserved_usd) == (WORST_USD, WORST_USD)
    await finish(watched, begun.call_id, step=2)
    assert ((await books(watched, root)).spent_usd, (await state(watched, hour)).spent_usd) == (PAID, PAID)


async def test_crossing_budgets_and_sub_runs_never_wait_for_each_other_for_ever(watched: Database) -> None:
    everybody = []
    for _ in range(3):
        root = await new_run(watched, 100)
        children = [f"{root}.{place}" for place in (2, 3)]
        await found(watched, root, [sub_run(child, 100) for child in children])
        everybody += [root, *children]
    crossing = [
        BudgetLine(name, name, period, cost_usd=Decimal(cost), calls=calls)
        for name, period, cost, calls in (
            ("a", "hour", "0.7", 500),
            ("b", "day", "2", 20),
            ("c", "day", "1.3", 500),
            ("d", "month", "9", 90),
        )
    ]

    async def work(seed: int) -> int:
        chance, went = random.Random(seed), 0
        for round_ in range(12):
            run_id, step = chance.choice(everybody), 2 + chance.randrange(8)
            mine = chance.sample(crossing, chance.randint(1, 4))
            begun = await charged(watched, run_id, *mine, step=step, min_output_tokens=10)
            if begun.outcome != "go":
                continue
            went += 1
            match chance.choice(("finish", "finish", "fail", "unknown", "leave")):
                case "finish":
                    await finish(watched, begun.call_id, "0.005", step=1_000 * seed + round_ + 10)
                case "fail":
                    await model_calls.fail(watched, begun.call_id, "transient", "refused")
                case "unknown":
                    await model_calls.charge_unknown(watched, begun.call_id, "transient", "it ended")
        return went

    async def sweep() -> None:
        for _ in range(10):
            await model_calls.settle_orphans(watched, 0)

    async with asyncio.timeout(90):  # PostgreSQL ends a deadlock after a second, with an error
        *went, _ = await asyncio.gather(*(work(seed) for seed in range(24)), sweep())
    assert sum(went) > 20, "some calls went"
    await model_calls.settle_orphans(watched, 0)
    for now in await budgets.current(watched):
        spent, calls = await watched.fetchrow(
            "select coalesce(sum(cost_usd), 0), count(*) from model_calls m join budget_periods b on b.period_id = any(m.budget_periods) "
            "where b.budget = $1 and m.state in ('recorded', 'superseded', 'unknown')",
            now.budget,
        )
        assert (now.spent_usd, now.spent_calls, now.reserved_usd, now.reserved_calls) == (spent, calls, ZERO, 0)


async def test_who_waits_is_told_until_the_step_begins_or_its_time_is_long_up(guarded: Database) -> None:
    first, second, gone = [await new_run(guarded, 100) for _ in range(3)]
    for run_id, wait_s in ((first, 60.0), (second, 60.0), (gone, 1.0)):
        await budgets.wait(guarded, run_id, 1, DAY.id, wait_s)
    await budgets.wait(guarded, first, 1, DAY.id, 600.0)
    await guarded.execute("update budget_waits set until = until - interval '2 minutes' where run_id = $1", gone)
    assert [(each.run_id, each.step, each.budget) for each in await budgets.waiting(guarded)] == [(first, 1, DAY.id), (second, 1, DAY.id)]
    await charged(guarded, second, DAY)
    await budgets.no_longer_waits(guarded, first, 2)
    assert [each.run_id for each in await budgets.waiting(guarded)] == [first]
    await budgets.no_longer_waits(guarded, first)
    assert await budgets.waiting(guarded) == []
