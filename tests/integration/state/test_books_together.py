"""Many calls at once: no interleaving passes a budget, loses a charge, or waits for ever."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import asyncpg
import pytest

from state import model_calls
from state.pool import Database
from tests.integration.state.ledger import WORST_USD, begin, books, finish, found, money, new_run, states, sub_run

ZERO = Decimal(0)


async def test_the_guard_of_these_tests_would_speak_up(guarded: Database) -> None:
    run_id = await new_run(guarded, "0.5")
    with pytest.raises(asyncpg.CheckViolationError, match="never_over_budget"):
        await guarded.execute("update runs set spent_usd = 0.3, reserved_usd = 0.3 where run_id = $1", run_id)


async def test_of_64_calls_at_once_on_a_budget_for_10_exactly_10_go(guarded: Database) -> None:
    run_id = await new_run(guarded, 10 * WORST_USD)
    at_once = asyncio.Barrier(64)

    async def call(step: int) -> str:
        await at_once.wait()
        return (await begin(guarded, run_id, step, cost_usd=10 * WORST_USD, min_output_tokens=100)).outcome

    outcomes = await asyncio.gather(*(call(step) for step in range(1, 65)))
    assert (outcomes.count("go"), outcomes.count("over_budget")) == (10, 54)
    assert await money(guarded, run_id) == (ZERO, 10 * WORST_USD, ZERO)
    assert await states(guarded, run_id) == ["in_flight"] * 10


async def test_of_64_calls_of_sub_runs_at_once_the_ancestors_budget_lets_10_go(guarded: Database) -> None:
    root = await new_run(guarded, 10 * WORST_USD)
    children = [f"{root}.{place}" for place in range(2, 10)]
    await found(guarded, root, [sub_run(child, 5) for child in children])
    at_once = asyncio.Barrier(64)

    async def call(child: str, step: int) -> str:
        await at_once.wait()
        return (await begin(guarded, child, step, cost_usd=5, min_output_tokens=100)).outcome

    outcomes = await asyncio.gather(*(call(child, step) for child in children for step in range(1, 9)))
    assert (outcomes.count("go"), outcomes.count("over_budget")) == (10, 54)
    assert (await books(guarded, root)).reserved_usd == 10 * WORST_USD


async def test_of_16_attempts_at_one_step_at_once_one_is_in_flight_and_the_others_are_unknown(guarded: Database) -> None:
    run_id = await new_run(guarded, 5)
    begun = await asyncio.gather(*(begin(guarded, run_id, cost_usd=5) for _ in range(16)))
    assert {one.outcome for one in begun} == {"go"}
    assert sorted(await states(guarded, run_id)) == ["in_flight"] + ["unknown"] * 15
    assert await money(guarded, run_id) == (15 * WORST_USD, WORST_USD, 15 * WORST_USD)

    turns = await asyncio.gather(*(finish(guarded, one.call_id) for one in begun))
    assert len({turn["call"] for turn in turns}) == 1, "everybody is told the one answer that counts"
    assert sorted(await states(guarded, run_id)) == ["recorded"] + ["superseded"] * 15
    assert await money(guarded, run_id) == (16 * Decimal("0.02"), ZERO, ZERO)


async def test_siblings_that_share_ancestors_never_wait_for_each_other_for_ever(guarded: Database) -> None:
    root = await new_run(guarded, 1_000)
    children = [f"{root}.{place}" for place in range(2, 6)]
    await found(guarded, root, [sub_run(child, 500) for child in children])
    for child in children:
        await found(guarded, child, [sub_run(f"{child}.{place}", 400) for place in (2, 3)])
    everybody = [root, *children, *(f"{child}.{place}" for child in children for place in (2, 3))]
    limits = {run_id: (await books(guarded, run_id)).cost_limit_usd for run_id in everybody}

    async def work(seed: int) -> None:
        chance = random.Random(seed)
        for round_ in range(12):
            run_id = chance.choice(everybody)
            begun = await begin(guarded, run_id, 2 + seed * 100 + round_, cost_usd=limits[run_id])
            end = chance.choice((finish, model_calls.fail, model_calls.charge_unknown))
            if end is finish:
                await finish(guarded, begun.call_id, step=2 + seed * 100 + round_)
            else:
                await end(guarded, begun.call_id, "transient", "it ended")  # type: ignore[operator]

    async with asyncio.timeout(60):  # PostgreSQL ends a deadlock after a second, with an error
        await asyncio.gather(*(work(seed) for seed in range(24)))

    charged = await guarded.fetchval("select sum(cost_usd) from model_calls")
    assert await money(guarded, root) == (
        charged,
        ZERO,
        await guarded.fetchval("select sum(cost_usd) from model_calls where state = 'unknown'"),
    )
