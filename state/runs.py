"""Runs as PostgreSQL knows them: identity, idempotency, books. Where a run stands is Temporal's to say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from state import transcripts
from state.pool import Database
from workflows.contracts.errors import IdempotencyConflictError, UnknownRunError
from workflows.contracts.messages import Message


@dataclass(frozen=True, slots=True)
class NewRun:
    """What is written before Temporal is asked to start a run."""

    run_id: str
    tenant: str
    agent: str
    definition_hash: str
    user: str | None
    idempotency_key: str | None
    body_hash: str
    cost_limit_usd: Decimal


@dataclass(frozen=True, slots=True)
class Books:
    """A run's identity and its money, sub-runs included."""

    run_id: str
    tenant: str
    agent: str
    definition_hash: str
    user: str | None
    idempotency_key: str | None
    parent_run_id: str | None
    cost_limit_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal
    unknown_usd: Decimal
    created_at: datetime


async def create(database: Database, run: NewRun, message: Message) -> Books:
    """Write a run and its first message, or find the run that holds the same idempotency key.

    Raises:
        IdempotencyConflictError: the key was used with another body.
    """
    cleaned = transcripts.clean(message)
    found = await database.fetchrow(
        "select *, user_id as user from create_run($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)",
        run.run_id,
        run.tenant,
        run.agent,
        run.definition_hash,
        run.user,
        run.idempotency_key,
        run.body_hash,
        run.cost_limit_usd,
        transcripts.as_json(cleaned),
        transcripts.estimate_tokens(cleaned),
    )
    if found is None:
        raise UnknownRunError(f"Run {run.run_id} could not be written.")
    if found["body_hash"] != run.body_hash or found["tenant"] != run.tenant:
        given = f"idempotency key {run.idempotency_key!r}" if run.idempotency_key is not None else f"run id {run.run_id!r}"
        raise IdempotencyConflictError(
            f"The {given} was used with another body (run {found['run_id']}): "
            "use a new one for a new request, or send the first body again."
        )
    return _books(dict(found))


async def books(database: Database, run_id: str) -> Books:
    """A run's identity and money.

    Raises:
        UnknownRunError: no such run.
    """
    found = await database.fetchrow("select *, user_id as user from runs where run_id = $1", run_id)
    if found is None:
        raise UnknownRunError(f"No run has the id {run_id!r}: `holdfast runs` lists them.")
    return _books(dict(found))


async def children(database: Database, run_id: str) -> list[str]:
    """The ids of the runs that this one started."""
    return [r["run_id"] for r in await database.fetch("select run_id from runs where parent_run_id = $1 order by created_at", run_id)]


def _books(found: dict[str, object]) -> Books:
    return Books(**{name: found[name] for name in Books.__dataclass_fields__})  # type: ignore[arg-type]
