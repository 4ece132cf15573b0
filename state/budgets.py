"""Budgets over many runs: what each has spent in its period, who is past its soft line, and which runs wait for one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from state.pool import Database

CHANNEL = "holdfast_budgets"
"""Announces a soft line that is passed, or left: JSON with `budget`, `name`, `passed` and `share`."""


@dataclass(frozen=True, slots=True)
class BudgetLine:
    """One budget that a call must fit into: whose (`id`, as in `team-day:acme`), for which period, and its limits."""

    name: str
    id: str
    period: str
    cost_usd: Decimal | None = None
    tokens: int | None = None
    calls: int | None = None
    soft: float = 0.8

    def row(self) -> dict[str, Any]:
        """As the database functions take it."""
        cost = None if self.cost_usd is None else str(self.cost_usd)
        limits = {"cost_usd": cost, "tokens": self.tokens, "calls": self.calls, "soft": self.soft}
        return {"budget": self.id, "name": self.name, "period": self.period} | limits


@dataclass(frozen=True, slots=True)
class Refusal:
    """A budget that has no room, in which of its dimensions, and when its period turns. The run's own budget never turns."""

    budget: str
    name: str
    dimension: str
    turns_in_s: float | None
    in_the_air: bool
    """There is room once the calls in the air have ended."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget in one period; the limits are as the last call was told them."""

    budget: str
    name: str
    period: str
    starts_at: datetime
    turns_in_s: float
    cost_limit_usd: Decimal | None
    token_limit: int | None
    call_limit: int | None
    soft: float
    spent_usd: Decimal
    reserved_usd: Decimal
    unknown_usd: Decimal
    spent_tokens: int
    reserved_tokens: int
    spent_calls: int
    reserved_calls: int
    share: float
    soft_since: datetime | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run's step that goes on when the budget's period turns, or somebody raises it."""

    run_id: str
    step: int
    budget: str
    since: datetime
    until: datetime | None
    left_s: float


async def current(database: Database) -> list[BudgetState]:
    """Every budget in the period that is now, by name; one that no call has touched yet in it is not there."""
    return await _states(database, "true")


async def past_soft_line(database: Database) -> list[BudgetState]:
    """The budgets whose soft line is passed now; what a worker's local copy of them is made of."""
    return await _states(database, "soft_since is not null")


async def turns(database: Database) -> dict[str, float]:
    """In how many seconds each kind of period turns, by the database's clock."""
    rows = await database.fetch(
        "select p as period, extract(epoch from date_trunc(p, at) + ('1 ' || p)::interval - at)::float8 as turns_in_s "
        "from unnest(array['hour', 'day', 'month']) p, (select now() at time zone 'UTC' as at) n"
    )
    return {row["period"]: row["turns_in_s"] for row in rows}


async def wait(database: Database, run_id: str, step: int, budget: str, wait_s: float) -> float:
    """Note that a step waits for a budget, so that whoever raises it knows whom to wake. For how many seconds it has waited already.

    Saying it again moves only the end, unless that is long over: then it is another wait.
    """
    waited_s: float = await database.fetchval(
        "insert into budget_waits as w (run_id, step, budget, until) values ($1, $2, $3, clock_timestamp() + make_interval(secs => $4)) "
        "on conflict (run_id, step, budget) do update set until = excluded.until, "
        "since = case when w.until < clock_timestamp() - interval '1 minute' then clock_timestamp() else w.since end "
        "returning greatest(0, extract(epoch from clock_timestamp() - since))::float8",
        run_id,
        step,
        budget,
        wait_s,
    )
    return waited_s


async def no_longer_waits(database: Database, run_id: str, step: int | None = None) -> float | None:
    """Forget that a step, or a run with any of its steps, waits. The longest that it did, in seconds; None: it did not."""
    waited_s: float | None = await database.fetchval(
        "with gone as (delete from budget_waits where run_id = $1 and step = coalesce($2, step) returning since) "
        "select greatest(0, max(extract(epoch from clock_timestamp() - since)))::float8 from gone having count(*) > 0",
        run_id,
        step,
    )
    return waited_s


async def waiting(database: Database, run_id: str | None = None) -> list[Waiting]:
    """Who waits for which budget, the longest first; of one run only, where it is named.

    A step that has begun since, or whose time is long up, waits no more.
    """
    rows = await database.fetch(
        "select w.run_id, w.step, w.budget, w.since, w.until, "
        "coalesce(greatest(0, extract(epoch from w.until - clock_timestamp())), 0)::float8 as left_s from budget_waits w "
        "where ($1::text is null or w.run_id = $1) "
        "and coalesce(w.until > clock_timestamp() - interval '1 minute', true) and not exists (select 1 from model_calls m "
        "where m.run_id = w.run_id and m.step = w.step and m.started_at > w.since and m.state in ('in_flight', 'recorded')) "
        "order by w.since, w.run_id",
        run_id,
    )
    return [Waiting(**dict(row)) for row in rows]


async def _states(database: Database, condition: str) -> list[BudgetState]:
    rows = await database.fetch(
        "select budget, name, period, starts_at, extract(epoch from budget_turns_at(b) - clock_timestamp())::float8 as turns_in_s, "  # noqa: S608 - our own text
        "cost_limit_usd, token_limit, call_limit, soft::float8, spent_usd, reserved_usd, unknown_usd, spent_tokens, reserved_tokens, "
        "spent_calls, reserved_calls, budget_share(b)::float8 as share, soft_since from budget_periods b "
        f"where starts_at = date_trunc(period, clock_timestamp(), 'UTC') and {condition} order by budget, period"
    )
    return [BudgetState(**dict(row)) for row in rows]
