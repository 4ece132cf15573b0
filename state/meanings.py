"""The semantic half of the response cache: the embeddings of questions, and the answer of the nearest one (docs/adr/0016)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import asyncpg

from state.pool import Database
from state.response_cache import CacheKey, Flight, Hit, hit_of
from workflows.contracts.errors import SettingsError

UNUSED_DAYS = 1.0
"""How long the embedding of a question is kept that has no answer in the cache."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """What the meaning of a question has found. `known` is False when the question has no embedding yet: then nothing was looked for."""

    known: bool
    hit: Hit | None = None
    similarity: float | None = None
    """How near the nearest question is, also when that is not near enough."""


async def prepare(database: Database) -> None:
    """Make what the semantic cache needs in the database, if it is not there.

    Raises:
        SettingsError: this PostgreSQL has no pgvector, or does not let us use it; says what to do.
    """
    try:
        await database.execute("select open_semantic_cache()")
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError, asyncpg.UndefinedObjectError) as error:
        raise _refused(
            error, "install the extension `vector` (pgvector 0.8 or later) on the server, in a schema on the search path"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise _refused(error, "let its owner or a superuser run `create extension vector` in this database once") from error


async def find(database: Database, flight: Flight, space: str, min_similarity: float) -> Nearest:
    """Give the leader the answer of the nearest question, file it under the leader's key too and end the flight; one round trip."""
    key = flight.key
    found = await database.fetchrow(
        "select * from find_meaning($1,$2,$3,$4,$5,$6,$7,$8)",
        key.digest,
        flight.token,
        key.tenant,
        key.agent,
        list(key.tags),
        key.frame,
        space,
        min_similarity,
    )
    if found is None:  # pragma: no cover - the function always gives a row
        raise LookupError("find_meaning gave no row")
    hit = None if found["response"] is None else hit_of(dict(found) | {"kind": "semantic"})
    return Nearest(found["known"], hit, found["nearest"])


async def learn(database: Database, key: CacheKey, space: str, embedding: Sequence[float]) -> None:
    """Keep the embedding of a question: it is good for every later answer to it."""
    await database.execute("select learn_meaning($1,$2,$3,$4)", key.digest, key.frame, space, json.dumps(list(embedding)))


async def sweep(database: Database) -> int:
    """Forget embeddings that no answer needs; returns how many."""
    gone: int = await database.fetchval("select sweep_meanings($1)", UNUSED_DAYS * 86_400)
    return gone


async def cost_of(database: Database, run_id: str, step: int) -> Decimal:
    """What the embedding of a step's question was charged, over all attempts, in USD."""
    cost_usd: Decimal = await database.fetchval(
        "select coalesce(sum(cost_usd), 0) from model_calls where run_id = $1 and step = $2", run_id, -step
    )
    return cost_usd


def _refused(error: Exception, remedy: str) -> SettingsError:
    return SettingsError(
        f"cache.semantic: this PostgreSQL cannot compare meanings ({error}): {remedy}, or take cache.semantic out of the settings. "
        "Until then answers are only found by the very same request."
    )
