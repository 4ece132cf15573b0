"""What model calls cost, by anything that the ledger knows of them, and a forecast of the day. By the database's clock, in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from state.pool import Database

DIMENSIONS: Final = {
    "agent": "m.agent",
    "user": "coalesce(m.user_id, '')",
    "tenant": "m.tenant",
    "key": "m.key",
    "model": "m.provider || ':' || coalesce(nullif(m.asked_model, ''), m.model)",
    "provider": "m.provider",
    "tier": "m.tier",
    "run": "m.run_id",
    "step": "abs(m.step)::text",
    "attempt": "m.attempt::text",
    "day": "to_char(m.started_at at time zone 'UTC', 'YYYY-MM-DD')",
    "hour": "to_char(m.started_at at time zone 'UTC', 'YYYY-MM-DD HH24:00')",
}
"""What costs can be told by, and how the ledger says it."""
TIMES: Final = ("day", "hour")
CHARGED: Final = "m.state in ('recorded', 'superseded', 'unknown')"
FORECAST_DAYS: Final = 7


@dataclass(frozen=True, slots=True)
class Selected:
    """Which calls are counted: those that began within the time and fit all that is given. A run counts with its sub-runs."""

    since: datetime | None = None
    until: datetime | None = None
    last: timedelta | None = None
    """Counted back from now; `since` takes its place."""
    agent: str | None = None
    tenant: str | None = None
    user: str | None = None
    model: str | None = None
    run: str | None = None


@dataclass(frozen=True, slots=True)
class CostLine:
    """The calls that share the values of `by`, which are in the order that was asked for."""

    by: tuple[str, ...]
    calls: int
    """Steps that got an answer."""
    attempts: int
    """Calls that were begun, those that failed included; answers from the cache and embeddings of questions are among them."""
    input_tokens: int
    cached_tokens: int
    """Of the input: those that the provider's prompt cache held."""
    output_tokens: int
    cost_usd: Decimal
    """All charges, unknown spend included."""
    unknown_usd: Decimal
    """Charged as reserved, because nobody knows whether the provider billed."""
    reserved_usd: Decimal
    """Of calls in the air; not in the cost."""
    saved_usd: Decimal
    """What the response cache and the Batch API saved."""
    simulated_usd: Decimal
    """Of the cost: what answers of a simulated or scripted model would have cost."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the UTC day of now comes to."""

    spent_usd: Decimal
    """Since midnight."""
    rest_usd: Decimal
    """What is expected until the next midnight."""
    days: int
    """So many of the last seven days had calls: `rest_usd` is the mean of what they spent in the same hours; 0: today's rate goes on."""

    @property
    def day_usd(self) -> Decimal:
        """The whole day."""
        return self.spent_usd + self.rest_usd

    @property
    def made_by(self) -> str:
        """How it was made, for people."""
        if self.days:
            return f"today so far, and for the rest of the day the mean of the same hours of {self.days} of the last {FORECAST_DAYS} days"
        return "today so far, and today's rate for the rest of the day, as the last days have no calls"


async def lines(database: Database, by: Sequence[str], which: Selected) -> list[CostLine]:
    """One line for every combination of values: the dearest first, or in order of time where time is asked for. Without `by`: one."""
    names = [DIMENSIONS[each] for each in by]
    grouped = f"array[{', '.join(names)}]" if names else "array[]::text[]"
    order = "1" if set(by) & set(TIMES) else "cost_usd desc, 1"
    rows = await database.fetch(
        f"select {grouped} as by, count(*) filter (where m.state = 'recorded' and m.step >= 0) as calls, count(*) as attempts, "  # noqa: S608 - our own text
        "coalesce(sum(m.input_tokens), 0)::bigint as input_tokens, coalesce(sum(m.cached_tokens), 0)::bigint as cached_tokens, "
        f"coalesce(sum(m.output_tokens), 0)::bigint as output_tokens, coalesce(sum(m.cost_usd) filter (where {CHARGED}), 0) as cost_usd, "
        "coalesce(sum(m.cost_usd) filter (where m.state = 'unknown'), 0) as unknown_usd, "
        "coalesce(sum(m.reserved_usd) filter (where m.state = 'in_flight'), 0) as reserved_usd, "
        "coalesce(sum(m.saved_usd), 0) as saved_usd, "
        f"coalesce(sum(m.cost_usd) filter (where m.simulated and {CHARGED}), 0) as simulated_usd "
        f"from model_calls m where {_WITHIN} and {_FITS} group by 1 order by {order}",
        *_owners(which),
        which.since,
        which.until,
        which.last,
    )
    return [CostLine(**dict(row) | {"by": tuple(row["by"])}) for row in rows]


async def forecast(database: Database, which: Selected) -> Forecast:
    """What today comes to, of the calls that fit; their time in `which` does not matter."""
    (row,) = await database.fetch(
        f"""
with now as (select now() as at, date_trunc('day', now(), 'UTC') as midnight),
past as (
    select k, coalesce(sum(m.cost_usd) filter (where m.started_at >= n.at - k * interval '24 hours'), 0) as rest_usd
      from now n cross join generate_series(1, {FORECAST_DAYS}) k
      join model_calls m on m.started_at >= n.midnight - k * interval '24 hours'
                        and m.started_at < n.midnight - (k - 1) * interval '24 hours'
     where {CHARGED} and {_FITS}
     group by k
)
select (select coalesce(sum(m.cost_usd), 0) from model_calls m, now n
         where m.started_at >= n.midnight and {CHARGED} and {_FITS}) as spent_usd,
       (select count(*) from past) as days, (select avg(rest_usd) from past) as mean_usd,
       extract(epoch from at - midnight) as passed_s
  from now
""",  # noqa: S608 - our own text
        *_owners(which),
    )
    spent, days = row["spent_usd"], row["days"]
    rest = row["mean_usd"] if days else spent / max(row["passed_s"], 1) * (86_400 - row["passed_s"])
    return Forecast(spent_usd=spent, rest_usd=round(rest, 6), days=days)


_FITS: Final = (
    "m.agent = coalesce($1, m.agent) and m.tenant = coalesce($2, m.tenant) and ($3::text is null or m.user_id = $3) "
    "and ($4::text is null or $4 in (m.model, m.asked_model, m.provider || ':' || m.asked_model)) "
    "and ($5::text is null or m.run_id = $5 or m.run_id in (select r.run_id from runs r where $5 = any(r.ancestors)))"
)
_WITHIN: Final = (
    "not m.shared and m.started_at >= coalesce($6::timestamptz, now() - $8::interval, '-infinity') "
    "and m.started_at < coalesce($7::timestamptz, 'infinity')"
)


def _owners(which: Selected) -> tuple[Any, ...]:
    return which.agent, which.tenant, which.user, which.model, which.run
