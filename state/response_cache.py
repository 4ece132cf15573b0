"""Answers that are given again without asking a model; one row a canonical request, and one flight while somebody asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from state import transcripts
from state.pool import Database
from workflows.contracts.messages import Message, ModelResponse, Role, Usage

CHANNEL: Final = "holdfast_cache"
"""Where it is announced that a flight has ended: the payload is its key, or empty for any."""
LEASE_S = 6.0
"""A leader that has not renewed for this long is taken as dead."""
LIST_LIMIT = 50

_KEPT: Final = {"model", "text", "tool_calls", "finish", "request_id", "simulated"}


@dataclass(frozen=True, slots=True)
class CacheKey:
    """A request as the cache knows it: its digest, and under what its answer is filed."""

    digest: str
    tenant: str | None
    """None: its answer is shared by all tenants."""
    agent: str
    model: str
    """The tier or model that was asked for."""
    ttl_s: float
    tags: tuple[str, ...] = ()
    frame: str | None = None
    """What must be the same, beside the meaning, for another request's answer to do; None: nothing else's answer does."""
    text: str = ""
    """What is compared by its meaning."""


@dataclass(frozen=True, slots=True)
class Flight:
    """One caller's hold on a key. The token is the caller's own: who has lost the key to another can no longer keep an answer."""

    key: CacheKey
    token: str
    worker: str
    lease_s: float = LEASE_S


@dataclass(frozen=True, slots=True)
class Hit:
    """An answer that is given again. Its response has used no tokens; `saved_usd` is what it cost when a model was asked."""

    response: ModelResponse
    kind: Literal["exact", "semantic", "stale"]
    age_s: float
    saved_usd: Decimal
    model: str
    """The tier or model that was asked for."""
    origin: str | None = None
    """Of an answer to a request that only means the same: that request's key."""
    similarity: float | None = None
    """How near the two requests' meanings are, 1 being the same."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found: `hit` with the answer, `lead` (the caller asks a model) or `busy` (another one does)."""

    outcome: Literal["hit", "lead", "busy"]
    hit: Hit | None = None


@dataclass(frozen=True, slots=True)
class CachedEntry:
    """An answer in the cache, without its content."""

    key: str
    tenant: str | None
    agent: str
    model: str
    tags: tuple[str, ...]
    kind: str
    origin: str | None
    """Of kind `semantic`: the key of the request that it was the answer to."""
    similarity: float | None
    hits: int
    cost_usd: Decimal
    simulated: bool
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers; every condition that is given must hold. Of several tags one is enough."""

    tenant: str | None = None
    agent: str | None = None
    key: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(slots=True)
class Counts:
    """What came of looking, for one agent, since it was last written down."""

    exact: int = 0
    semantic: int = 0
    stale: int = 0
    missed: int = 0
    saved_usd: Decimal = Decimal(0)


async def look(database: Database, flight: Flight) -> Looked:
    """Find the answer, or take the lead if nobody alive has it; one round trip."""
    key = flight.key
    found = await database.fetchrow(
        "select * from look_cached($1,$2,$3,$4,$5,$6,$7)",
        key.digest,
        key.tenant,
        key.agent,
        list(key.tags),
        flight.token,
        flight.worker,
        flight.lease_s,
    )
    if found is None:  # pragma: no cover - the function always gives a row
        raise LookupError("look_cached gave no row")
    return Looked(found["outcome"], hit_of(found) if found["outcome"] == "hit" else None)


async def peek(database: Database, digest: str) -> Hit | bool:
    """The answer; or whether a living leader asks a model for it."""
    found = await database.fetchrow(
        "select response, kind, extract(epoch from clock_timestamp() - created_at)::float8 as age_s, cost_usd, model, "
        "origin, similarity, exists(select from cache_flights where key = $1 and lease_until > clock_timestamp()) as flying "
        "from (select $1::text as key) asked left join cached_responses c on c.key = asked.key and c.expires_at > clock_timestamp()",
        digest,
    )
    if found is None:  # pragma: no cover - the left join always gives a row
        raise LookupError("the look for a cached answer gave no row")
    return bool(found["flying"]) if found["response"] is None else hit_of(found)


async def stale(database: Database, digest: str, max_age_s: float) -> Hit | None:
    """The answer, also when its time is over, if it is not older than that."""
    found = await database.fetchrow(
        "select response, 'stale' as kind, extract(epoch from clock_timestamp() - created_at)::float8 as age_s, cost_usd, model, origin, "
        "similarity from cached_responses where key = $1 and created_at > clock_timestamp() - make_interval(secs => $2)",
        digest,
        max_age_s,
    )
    return None if found is None else hit_of(found)


async def renew(database: Database, flights: Sequence[Flight], lease_s: float) -> None:
    """Say that the leader of these flights lives; one that it leads no longer stays as it is."""
    await database.execute(
        "update cache_flights f set lease_until = clock_timestamp() + make_interval(secs => $3) "
        "from unnest($1::text[], $2::text[]) held(key, token) where f.key = held.key and f.token = held.token",
        [flight.key.digest for flight in flights],
        [flight.token for flight in flights],
        lease_s,
    )


async def keep(database: Database, flight: Flight, response: ModelResponse, cost_usd: Decimal) -> bool:
    """File the leader's answer and end its flight; False when it was no longer its to file. The answer is cleaned here."""
    key = flight.key
    kept: bool = await database.fetchval(
        "select keep_response($1,$2,$3,$4,$5,$6,$7,$8,$9)",
        key.digest,
        flight.token,
        key.tenant,
        key.agent,
        key.model,
        list(key.tags),
        stored(response),
        cost_usd,
        key.ttl_s,
    )
    return kept


async def give_up(database: Database, flight: Flight) -> None:
    """End the leader's flight without an answer."""
    await database.execute("select give_up_flight($1, $2)", flight.key.digest, flight.token)


async def invalidate(database: Database, which: Selection) -> int:
    """Throw answers away, and keep those in the air from being filed; returns how many were thrown away."""
    gone: int = await database.fetchval(
        "select invalidate_cached($1,$2,$3,$4)", which.tenant, which.agent, which.key, list(which.tags) or None
    )
    return gone


async def sweep(database: Database, max_entries: int, stale_s: float) -> int:
    """Make room: what is too old even for an outage, and the oldest over the number; returns how many went."""
    gone: int = await database.fetchval("select sweep_cached($1,$2)", max_entries, stale_s)
    return gone


async def count(database: Database, counts: dict[str, Counts], hits: dict[str, int]) -> None:
    """Add to the counts by agent, and to the hits by key."""
    rows = [(agent, c.exact, c.semantic, c.stale, c.missed, c.saved_usd) for agent, c in sorted(counts.items())]
    async with database.transaction() as connection:
        await connection.execute(
            "insert into cache_counts as c (day, agent, exact, semantic, stale, missed, saved_usd) "
            "select (clock_timestamp() at time zone 'utc')::date, x.* "
            "from unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::numeric[]) x on conflict (day, agent) "
            "do update set exact = c.exact + excluded.exact, semantic = c.semantic + excluded.semantic, stale = c.stale + excluded.stale, "
            "missed = c.missed + excluded.missed, saved_usd = c.saved_usd + excluded.saved_usd",
            *(list(column) for column in zip(*rows, strict=True)),
        )
        await connection.execute(
            "update cached_responses c set hits = c.hits + x.added from (select key, u.added from unnest($1::text[], $2::bigint[]) "
            "as u(key, added) join cached_responses e using (key) order by key for update of e skip locked) x where c.key = x.key",
            sorted(hits),
            [hits[key] for key in sorted(hits)],
        )


def stored(response: ModelResponse) -> dict[str, Any]:
    """A response as it is kept: without secrets, and without what it used."""
    said = transcripts.clean(Message(role=Role.ASSISTANT, text=response.text, tool_calls=response.tool_calls))
    cleaned = response.model_copy(update={"text": said.text, "tool_calls": said.tool_calls})
    return cleaned.model_dump(mode="json", include=_KEPT)


def hit_of(row: Any) -> Hit:
    """A row with the fields of a hit, as in `look_cached`."""
    response = ModelResponse.model_validate(row["response"] | {"usage": Usage()})
    return Hit(response, row["kind"], max(0.0, float(row["age_s"])), row["cost_usd"], row["model"], row["origin"], row["similarity"])
