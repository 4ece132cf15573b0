"""What is old is forgotten, a part at a time; what costs within the kept time and runs that may go on need stays."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from activities.inference import housekeeping
from state import costs, model_calls, retention, worker_keys
from state.budgets import BudgetLine
from state.costs import Selected
from state.pool import Database
from state.worker_keys import KeyRow
from tests.integration.state.ledger import begin, books, finish, found, new_run, sub_run
from workflows.contracts.inference import RetentionSettings

DAY = BudgetLine("day", "day", "day", calls=1_000)
KEPT: dict[str, Any] = {"books_days": 400, "notes_days": 60}
AGE = "update model_calls set started_at = started_at - interval '450 days' where run_id = any($1)"
LETTER = """insert into dead_letters (run_id, letter, step, tenant, agent, agent_version, definition_hash, model, limits,
    failure_class, cause, what, parked_at)
    values ($1, 1, 1, 'default', 'support', '1', 'hash', 'smart', '{}', 'caller', 'no', 'call_model', now())"""
QUESTION = """insert into questions (run_id, step, asked, call_id, kind, model_step, tenant, agent, tool, arguments, risk,
    named, allowed, quorum, not_by_user, since, voting_since)
    values ($1, 2, 1, 'c', 'approval', 1, 'default', 'support', 'refund', '{}', 'high', '{}', '{}', 1, false, now(), now())"""


async def called(database: Database, run_id: str, steps: int = 1, **fields: Any) -> None:
    """A run with paid calls, under a budget of the day."""
    for step in range(2, steps + 2):
        begun = await begin(database, run_id, step, budgets=(DAY,), **fields)
        await finish(database, begun.call_id, step=step)


async def age(database: Database, *run_ids: str) -> None:
    """Let it all have been 450 days ago."""
    await database.execute(AGE, list(run_ids))


async def rounds(database: Database, **more: Any) -> dict[str, int]:
    """Round after round until one finds nothing; the sums."""
    told: dict[str, int] = {}
    while gone := await retention.forget_old(database, **KEPT, **more):
        for what, rows in gone.items():
            told[what] = told.get(what, 0) + rows
    return told


async def left(database: Database, run_id: str) -> int:
    return len(await model_calls.charges(database, run_id))


async def test_old_calls_go_and_costs_within_the_kept_time_are_as_they_were(guarded: Database) -> None:
    old, young = await new_run(guarded), await new_run(guarded)
    await called(guarded, old, 3)
    await called(guarded, young, 2)
    await age(guarded, old)
    before = await costs.lines(guarded, ("run",), Selected(last=timedelta(days=399)))
    assert await rounds(guarded) == {"calls": 3}
    assert (await left(guarded, old), await left(guarded, young)) == (0, 2)
    assert await costs.lines(guarded, ("run",), Selected(last=timedelta(days=399))) == before
    assert (await books(guarded, old)).spent_usd > 0, "what a run has spent is still told"


async def test_a_family_that_has_called_since_or_waits_for_a_person_keeps_all_its_calls(guarded: Database) -> None:
    parent = await new_run(guarded)
    child = f"{parent}.2"
    await found(guarded, parent, [sub_run(child)])
    parked, asking, flying, ended = [await new_run(guarded) for _ in range(4)]
    for run_id in (parked, asking, flying, ended):
        await called(guarded, run_id)
    await begin(guarded, flying, 9)
    await called(guarded, child)
    await guarded.execute(LETTER, parked)
    await guarded.execute(QUESTION, asking)
    await age(guarded, parent, parked, asking, flying, ended)
    assert await rounds(guarded) == {"calls": 1}
    assert [await left(guarded, run_id) for run_id in (parent, child, parked, asking, flying, ended)] == [1, 1, 1, 1, 2, 0]

    await age(guarded, child)
    await guarded.execute("update dead_letters set state = 'aborted'")
    await guarded.execute("update questions set state = 'settled'")
    assert await rounds(guarded) == {"calls": 4}, "a later round comes by them again"


async def test_a_round_is_bounded_and_one_worker_does_it_at_a_time(guarded: Database) -> None:
    run_id = await new_run(guarded)
    await called(guarded, run_id, 5)
    await age(guarded, run_id)
    assert await retention.forget_old(guarded, **KEPT, at_most=2) == {"calls": 2}
    async with guarded.transaction() as connection:
        assert await connection.fetchval("select forget_old(400, 60, 2)") == {"calls": 2} | dict.fromkeys(
            ("budget_periods", "batches", "cache_counts", "alerts", "cached_responses", "worker_keys", "budget_waits", "limits"), 0
        )
        assert await retention.forget_old(guarded, **KEPT) == {}
    assert await left(guarded, run_id) == 1


async def test_periods_alerts_keys_answers_and_limits_that_nobody_needs_go(guarded: Database) -> None:
    run_id = await new_run(guarded)
    await called(guarded, run_id)
    await guarded.execute(
        "insert into budget_periods (budget, name, period, starts_at, soft, reserved_calls) values "
        "('a', 'a', 'month', now() - interval '450 days', 0.8, 0), ('b', 'b', 'month', now() - interval '450 days', 0.8, 1), "
        "('c', 'c', 'month', now() - interval '300 days', 0.8, 0)"
    )
    await guarded.execute(
        "insert into alerts (kind, subject, period, raised_by, raised_at) values "
        "('k', 'old', 'p', 'w', now() - interval '61 days'), ('k', 'new', 'p', 'w', now())"
    )
    for worker in ("dead", "live"):
        await worker_keys.tell(guarded, worker, [KeyRow("p", "main", "MAIN", None)])
    await guarded.execute("update worker_keys set seen_at = now() - interval '61 days' where worker = 'dead'")
    await guarded.execute(
        "insert into cached_responses (key, agent, model, response, cost_usd, created_at, expires_at) values "
        "('old', 'a', 'm', '{}', 0, now() - interval '99 days', now() - interval '61 days'), "
        "('new', 'a', 'm', '{}', 0, now() - interval '99 days', now() + interval '1 day')"
    )
    idle = "limit_now() - 61 * 86400.0"
    await guarded.execute(
        f"insert into limit_buckets (name, kind, seen_at, tat, blocked_until) values ('idle', 1, {idle}, {idle}, 0), "  # noqa: S608 - our own text
        f"('blocked', 1, {idle}, {idle}, limit_now() + 60), ('used', 1, limit_now(), limit_now(), 0)"
    )
    gone = {"budget_periods": 1, "alerts": 1, "worker_keys": 1, "cached_responses": 1, "limits": 1}
    assert await rounds(guarded) == gone
    assert [row["name"] for row in await guarded.fetch("select name from limit_buckets order by name")] == ["blocked", "used"]
    assert [row["budget"] for row in await guarded.fetch("select budget from budget_periods order by budget")] == ["b", "c", "day"]


async def test_a_worker_forgets_beside_its_calls(guarded: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "FORGET_EVERY_S", 0.05)
    run_id = await new_run(guarded)
    await called(guarded, run_id)
    await age(guarded, run_id)
    async with housekeeping.housekeeping(guarded, RetentionSettings), asyncio.timeout(30):
        while await left(guarded, run_id):  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.02)
