"""Budgets over many runs, as the books keep them: which are past their soft line, who waits for which, where each stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from state.pool import Database

CHANNEL = "holdfast_budgets"
"""Where a soft line that is passed, or left again, is announced."""
_PRESENT = "starts_at = date_trunc(period, clock_timestamp(), 'UTC')"


@dataclass(frozen=True, slots=True)
class BudgetPeriod:
    """One budget in one period, with what was spent and what is reserved by calls in the air."""

    budget: str
    name: str
    period: str
    starts_at: datetime
    turns_in_s: float
    cost_limit_usd: Decimal | None
    token_limit: int | None
    call_limit: int | None
    soft: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal
    unknown_usd: Decimal
    spent_tokens: int
    reserved_tokens: int
    spent_calls: int
    reserved_calls: int
    share: Decimal
    soft_since: datetime | None


@dataclass(frozen=True, slots=True)
class BudgetWait:
    """A run's step that goes on when the budget's period turns, or somebody raises it."""

    run_id: str
    step: int
    budget: str
    since: datetime
    until: datetime | None


async def soft_now(database: Database) -> list[str]:
    """The budgets that are past their soft line in the present period."""
    rows = await database.fetch(f"select budget from budget_periods where soft_since is not null and {_PRESENT}")  # noqa: S608 - our own text
    return [row["budget"] for row in rows]


async def present(database: Database) -> list[BudgetPeriod]:
    """Every budget in the period that is now, by name; one that no call has touched yet in it is not there."""
    rows = await database.fetch(
        "select budget, name, period, starts_at, extract(epoch from starts_at + ('1 ' || period)::interval - clock_timestamp())::float8 "  # noqa: S608
        "as turns_in_s, cost_limit_usd, token_limit, call_limit, soft, spent_usd, reserved_usd, unknown_usd, spent_tokens, "
        f"reserved_tokens, spent_calls, reserved_calls, budget_share(b) as share, soft_since "
        f"from budget_periods b where {_PRESENT} order by budget, period"
    )
    return [BudgetPeriod(**dict(row)) for row in rows]


async def wait(database: Database, run_id: str, step: int, budget: str, wait_s: float) -> None:
    """Note that a step waits for a budget, so that whoever raises it knows whom to wake."""
    await database.execute(
        "insert into budget_waits (run_id, step, budget, until) values ($1, $2, $3, clock_timestamp() + make_interval(secs => $4)) "
        "on conflict (run_id, step, budget) do update set until = excluded.until",
        run_id,
        step,
        budget,
        wait_s,
    )


async def waiting(database: Database) -> list[BudgetWait]:
    """Who waits for which budget, the longest first. A step that has begun since, or whose time is long up, waits no more."""
    rows = await database.fetch(
        "select w.run_id, w.step, w.budget, w.since, w.until from budget_waits w "
        "where coalesce(w.until > clock_timestamp() - interval '1 minute', true) and not exists (select 1 from model_calls m "
        "where m.run_id = w.run_id and m.step = w.step and m.started_at > w.since and m.state in ('in_flight', 'recorded')) "
        "order by w.since"
    )
    return [BudgetWait(**dict(row)) for row in rows]
