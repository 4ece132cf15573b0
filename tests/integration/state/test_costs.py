"""What calls cost is told by anything that the ledger knows of them, and what the day will is told with how that was found."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from client import costs as told_costs
from client.costs import CostReport, Wanted
from state import costs, model_calls
from state.costs import Selected
from state.pool import Database
from state.runs import NewRun
from state.runs import create as create_run
from tests.integration.state.ledger import WORST_USD, begin, finish, found, new_id, new_run, sub_run
from workflows.contracts.errors import InvalidInputError
from workflows.contracts.messages import Message, Role

ZERO = Decimal(0)


async def paid(database: Database, run_id: str, cost_usd: str, step: int = 1, **fields: Any) -> int:
    """A call that costs this."""
    begun = await begin(database, run_id, step, cost_usd=100, **fields)
    await finish(database, begun.call_id, cost_usd, step=step)
    return begun.call_id


async def ago(database: Database, call_id: int, hours: int) -> None:
    """Let a call have begun so long ago."""
    await database.execute("update model_calls set started_at = now() - make_interval(hours => $2) where call_id = $1", call_id, hours)


async def told(database: Database, *by: str, **fields: Any) -> CostReport:
    return await told_costs.report(database, Wanted(by, **fields))


async def of_user(database: Database, tenant: str, user: str) -> str:
    run_id = new_id()
    new = NewRun(run_id, tenant, "support", "hash", user, None, "body", Decimal(100))
    await create_run(database, new, Message(role=Role.USER, text="hello"))
    return run_id


async def test_costs_are_told_by_several_things_at_once_with_what_is_unknown_in_the_air_and_saved(guarded: Database) -> None:
    ann, bob = await of_user(guarded, "acme", "ann"), await of_user(guarded, "acme", "bob")
    await paid(guarded, ann, "0.03", key="main", tier="smart")
    failed = await begin(guarded, ann, 2, cost_usd=100, key="main", tier="smart")
    await model_calls.fail(guarded, failed.call_id, "transient", "refused")
    await begin(guarded, ann, 2, cost_usd=100, key="spare", tier="smart")
    await begin(guarded, ann, 2, cost_usd=100, key="spare", tier="smart")
    free = {"input_usd": ZERO, "output_usd": ZERO, "cache": "exact", "decision": {"saved_usd": "0.03"}}
    await paid(guarded, bob, "0", tier="smart", **free)
    await paid(guarded, bob, "0.01", 2, tier="fast", batch=True, price_factor=Decimal("0.5"))

    report = await told(guarded, "user", "tier", "key")
    assert [(line.by, line.calls, line.attempts, line.cost_usd) for line in report.lines] == [
        (("ann", "smart", "spare"), 0, 2, WORST_USD),
        (("ann", "smart", "main"), 1, 2, Decimal("0.03")),
        (("bob", "fast", ""), 1, 1, Decimal("0.01")),
        (("bob", "smart", ""), 1, 1, ZERO),
    ]
    spare, main, fast, cached = report.lines
    assert (spare.unknown_usd, spare.reserved_usd) == (WORST_USD, WORST_USD)
    assert (main.input_tokens, main.cached_tokens, main.output_tokens) == (20, 5, 7)
    assert (fast.saved_usd, cached.saved_usd) == (Decimal("0.01"), Decimal("0.03"))
    assert (report.total.calls, report.total.attempts, report.total.cost_usd) == (3, 6, WORST_USD + Decimal("0.04"))
    assert report.total.saved_usd == Decimal("0.04")


@pytest.mark.parametrize("by", costs.DIMENSIONS)
async def test_every_way_to_tell_costs_comes_to_the_same_total(guarded: Database, by: str) -> None:
    for cost in ("0.01", "0.02"):
        await paid(guarded, await of_user(guarded, "acme", f"user-{cost}"), cost)
    report = await told(guarded, by)
    assert sum(line.cost_usd for line in report.lines) == report.total.cost_usd == Decimal("0.03")
    assert len((await told(guarded, by, since=datetime.now(UTC) + timedelta(hours=1))).lines) == 0


async def test_only_calls_that_fit_count_and_a_run_counts_with_its_sub_runs(guarded: Database) -> None:
    root, other = await new_run(guarded, 100), await of_user(guarded, "acme", "ann")
    child = f"{root}.2"
    await found(guarded, root, [sub_run(child, 100)])
    await paid(guarded, child, "0.02")
    await paid(guarded, other, "0.05", provider="anthropic")
    for only, cost in (
        ({"run": root}, "0.02"),
        ({"tenant": "acme"}, "0.05"),
        ({"user": "ann"}, "0.05"),
        ({"agent": "nobody"}, "0"),
        ({"model": "gpt-5-mini"}, "0.07"),
        ({"model": "anthropic:gpt-5-mini"}, "0.05"),
    ):
        assert (await told(guarded, **only)).total.cost_usd == Decimal(cost), only


async def test_costs_over_time_are_in_the_order_of_time_and_end_where_asked(guarded: Database) -> None:
    run_id = await new_run(guarded, 100)
    for step, (cost, hours) in enumerate((("0.01", 0), ("0.02", 25), ("0.04", 50)), 1):
        await ago(guarded, await paid(guarded, run_id, cost, step), hours)
    week = timedelta(days=7)
    assert [line.cost_usd for line in (await told(guarded, "hour", since=week)).lines] == [
        Decimal("0.04"),
        Decimal("0.02"),
        Decimal("0.01"),
    ]
    assert (await told(guarded)).total.cost_usd == Decimal("0.01"), "a day where nothing is said"
    end = datetime.now(UTC) - timedelta(hours=1)
    assert (await told(guarded, since=week, until=end)).total.cost_usd == Decimal("0.06")


async def test_the_day_is_forecast_from_the_same_hours_of_the_days_that_had_calls(guarded: Database) -> None:
    run_id = await new_run(guarded, 100)
    await paid(guarded, run_id, "0.01")
    for step, (cost, days, minutes) in enumerate((("0.04", 1, 1), ("0.09", 1, -1), ("0.02", 3, 1), ("0.50", 9, 1)), 2):
        call_id = await paid(guarded, run_id, cost, step)
        # Later than now on a past day, as far as that day still is the same one; one a minute before now does not count.
        await guarded.execute(
            "update model_calls set started_at = greatest(date_trunc('day', now(), 'UTC'), least(now() + make_interval(mins => $2), "
            "date_trunc('day', now(), 'UTC') + interval '86399 seconds')) - make_interval(hours => 24 * $3) where call_id = $1",
            call_id,
            minutes,
            days,
        )
    told = await costs.forecast(guarded, Selected())
    assert (told.spent_usd, told.rest_usd, told.days, told.day_usd) == (Decimal("0.01"), Decimal("0.03"), 2, Decimal("0.04"))
    assert "the same hours of 2 of the last 7 days" in told.made_by


async def test_without_days_before_the_forecast_goes_on_at_todays_rate(guarded: Database) -> None:
    await paid(guarded, await new_run(guarded, 100), "0.01")
    told = await costs.forecast(guarded, Selected())
    assert (told.spent_usd, told.days) == (Decimal("0.01"), 0)
    assert told.rest_usd > 0
    assert "today's rate" in told.made_by
    none = await costs.forecast(guarded, replace(Selected(), agent="nobody"))
    assert none.day_usd == ZERO


async def test_what_cannot_be_told_is_refused_with_the_remedy(guarded: Database) -> None:
    for by, fields, said in (
        (("colour",), {}, "they are by agent, user, tenant"),
        (("agent", "agent"), {}, "name it once"),
        ((), {"since": datetime(2026, 1, 1)}, "no time zone"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            await told(guarded, *by, **fields)
