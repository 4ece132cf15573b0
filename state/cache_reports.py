"""What people are told of the response cache: what it saved, what is in it, who is asking a model right now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from state.pool import Database
from state.response_cache import CachedEntry, Selection


@dataclass(frozen=True, slots=True)
class CacheCount:
    """What came of looking for one agent's answers, over all days."""

    agent: str
    exact: int
    semantic: int
    stale: int
    missed: int
    saved_usd: Decimal
    entries: int
    """Answers that are good now."""


@dataclass(frozen=True, slots=True)
class CacheFlight:
    """A caller that asks a model right now, with others perhaps waiting for its answer."""

    key: str
    tenant: str | None
    agent: str
    worker: str
    since: datetime


async def counts(database: Database) -> list[CacheCount]:
    """By agent; also agents whose answers are all gone."""
    rows = await database.fetch(
        "select agent, coalesce(c.exact, 0) as exact, coalesce(c.semantic, 0) as semantic, coalesce(c.stale, 0) as stale, "
        "coalesce(c.missed, 0) as missed, coalesce(c.saved_usd, 0) as saved_usd, coalesce(e.entries, 0) as entries from "
        "(select agent, sum(exact)::bigint as exact, sum(semantic)::bigint as semantic, sum(stale)::bigint as stale, "
        "sum(missed)::bigint as missed, sum(saved_usd) as saved_usd from cache_counts group by agent) c full join "
        "(select agent, count(*) as entries from cached_responses where expires_at > clock_timestamp() group by agent) e using (agent) "
        "order by agent"
    )
    return [CacheCount(**dict(row)) for row in rows]


async def flights(database: Database) -> list[CacheFlight]:
    """Who leads now, longest first."""
    rows = await database.fetch(
        "select key, tenant, agent, worker, started_at as since from cache_flights where lease_until > clock_timestamp() "
        "order by started_at"
    )
    return [CacheFlight(**dict(row)) for row in rows]


async def entries(database: Database, which: Selection, limit: int) -> list[CachedEntry]:
    """Answers that are good now, newest first."""
    rows = await database.fetch(
        "select key, tenant, agent, model, tags, kind, origin, similarity, hits, cost_usd, "
        "coalesce((response->>'simulated')::boolean, false) as simulated, created_at, expires_at "
        "from cached_responses where expires_at > clock_timestamp() and ($1::text is null or tenant = $1) "
        "and ($2::text is null or agent = $2) and ($3::text is null or key = $3) and ($4::text[] is null or tags && $4) "
        "order by created_at desc limit $5",
        which.tenant,
        which.agent,
        which.key,
        list(which.tags) or None,
        limit,
    )
    return [CachedEntry(**dict(row) | {"tags": tuple(row["tags"])}) for row in rows]
