"""How much each model was used lately, from the ledger of model calls."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from state.pool import Database


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What went to one model by one key. Answers from the cache are not counted: no model gave them."""

    provider: str
    model: str
    key: str
    calls: int
    failed: int
    """Calls that failed, or whose end is not known."""
    in_the_air: int
    cost_usd: Decimal
    last_at: datetime


async def lately(database: Database, within_s: float) -> list[ModelUse]:
    """Every model and key that was called within the time, by name."""
    rows = await database.fetch(
        "select provider, case asked_model when '' then model else asked_model end as model, key, count(*)::int as calls, "
        "count(*) filter (where state in ('failed', 'unknown'))::int as failed, "
        "count(*) filter (where state = 'in_flight')::int as in_the_air, sum(cost_usd) as cost_usd, max(started_at) as last_at "
        "from model_calls where started_at > now() - make_interval(secs => $1) and cache is null and not shared "
        "group by 1, 2, 3 order by 1, 2, 3",
        within_s,
    )
    return [ModelUse(**dict(row)) for row in rows]
