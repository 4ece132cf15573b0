"""Requests that are gathered for a provider's Batch API, and the batches they are handed in with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from state.pool import Database
from state.transcripts import storable
from workflows.contracts.batches import GatheredCall
from workflows.contracts.redaction import redact

MAX_BYTES: Final = 50_000_000
"""What the requests of one batch may hold together: both providers take more, a worker's memory is the narrower door."""
KEPT_DAYS: Final = 30
"""How long a batch that has ended can be looked up."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Who may do something with a batch, and for how long by the database's clock."""

    holder: str
    lease_s: float


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands."""

    batch_id: str
    provider: str
    key: str
    """The name of the provider's key that it belongs to."""
    model: str
    state: Literal["sending", "sent", "ended"]
    provider_batch_id: str | None
    troubles: int
    made_at: datetime
    age_s: float

    def custom_id(self, call_id: int) -> str:
        """How the provider calls one of its requests: at most 64 characters."""
        return f"{self.batch_id}_{call_id}"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request of a batch that has no end yet."""

    call_id: int
    tries: int
    call: GatheredCall


@dataclass(frozen=True, slots=True)
class Standing:
    """How one request stands, by its own row, its batch's and the ledger's."""

    state: str
    tries: int
    provider: str
    key: str
    goes_on: bool
    batch_id: str | None
    batch_state: str | None
    sent_at: datetime | None
    call_state: str
    failure_class: str | None
    failure: str | None
    turn: dict[str, Any] | None
    """What is recorded for the step, by whichever of its calls."""
    unknown_usd: Decimal
    """The unknown spend of the step."""


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """A batch in which nobody waits any more."""

    provider: str
    key: str
    provider_batch_id: str


async def open_request(database: Database, run_id: str, step: int) -> tuple[int, str] | None:
    """The step's request that is gathered or in a batch already, with its provider; what was begun and never gathered is given back."""
    row = await database.fetchrow("select * from open_batch_request($1, $2)", run_id, step)
    return None if row is None or row["call_id"] is None else (row["call_id"], row["provider"])


async def add(database: Database, call_id: int, provider: str, key: str, call: GatheredCall) -> bool:
    """Put a call that is begun among the gathered; False when it is in the air no more."""
    row = await database.fetchrow(
        "insert into batch_requests (call_id, provider, key, model, call) "
        "select m.call_id, $2, $3, $4, $5 from model_calls m where m.call_id = $1 and m.state = 'in_flight' returning call_id",
        call_id,
        provider,
        key,
        call.sent.model,
        call.model_dump_json(),
    )
    return row is not None


async def standing(database: Database, call_id: int) -> Standing | None:
    """How a request stands; None when it is not there."""
    row = await database.fetchrow(
        """
select q.state, q.tries, q.provider, q.key, q.goes_on, q.batch_id, b.state as batch_state, b.sent_at,
       m.state as call_state, m.failure_class, m.failure,
       (select s.turn from model_calls s where s.run_id = m.run_id and s.step = m.step and s.state = 'recorded') as turn,
       (select coalesce(sum(s.cost_usd), 0) from model_calls s
         where s.run_id = m.run_id and s.step = m.step and s.state = 'unknown') as unknown_usd
  from batch_requests q join model_calls m on m.call_id = q.call_id left join batches b on b.batch_id = q.batch_id
 where q.call_id = $1""",
        call_id,
    )
    return None if row is None else Standing(**dict(row))


async def gather(database: Database, call_id: int, lease: Lease, max_requests: int) -> Batch | None:
    """Make a batch of the request and of those that are gathered for the same model and key; None when it is in one already."""
    batch_id = await database.fetchval(
        "select gather_batch($1, $2, $3, $4, $5)", call_id, lease.holder, lease.lease_s, max_requests, MAX_BYTES
    )
    return None if batch_id is None else _batch(await database.fetchrow(f"select {_COLUMNS} from batches where batch_id = $1", batch_id))  # noqa: S608 - our own column names


async def claim(database: Database, batch_id: str, lease: Lease, *, every_s: float) -> Batch | None:
    """Take a batch that nobody holds: to hand it in, or to look at it when the last look is `every_s` seconds old."""
    row = await database.fetchrow(
        f"""
update batches set holder = $2, lease_until = clock_timestamp() + make_interval(secs => $3),
       looked_at = case state when 'sent' then clock_timestamp() else looked_at end
 where batch_id = $1 and state <> 'ended' and lease_until <= clock_timestamp()
   and (state = 'sending' or looked_at is null or looked_at <= clock_timestamp() - make_interval(secs => $4))
returning {_COLUMNS}""",  # noqa: S608 - our own column names
        batch_id,
        lease.holder,
        lease.lease_s,
        every_s,
    )
    return _batch(row)


async def renew(database: Database, batch_id: str, lease: Lease) -> bool:
    """Hold a batch for a whole lease from now; False when somebody else holds it by now."""
    row = await database.fetchrow(
        "update batches set lease_until = clock_timestamp() + make_interval(secs => $3) "
        "where batch_id = $1 and holder = $2 and lease_until > clock_timestamp() returning batch_id",
        batch_id,
        lease.holder,
        lease.lease_s,
    )
    return row is not None


async def release(database: Database, batch_id: str, lease: Lease, *, troubles: int = 0) -> None:
    """Let others have it."""
    await database.execute(
        "update batches set lease_until = clock_timestamp(), troubles = $3 where batch_id = $1 and holder = $2",
        batch_id,
        lease.holder,
        troubles,
    )


async def sent(database: Database, batch_id: str, provider_batch_id: str) -> None:
    """Note that the provider has it."""
    await database.execute(
        "update batches set state = 'sent', provider_batch_id = $2, sent_at = clock_timestamp(), lease_until = clock_timestamp() "
        "where batch_id = $1 and state = 'sending'",
        batch_id,
        provider_batch_id,
    )


async def put_back(database: Database, batch_id: str, lease: Lease, max_tries: int, wait_s: float) -> bool:
    """Take a batch apart that was not taken in: its requests are gathered again, but for those tried too often; False: it is not ours.

    They may be handed in again after `wait_s`, and after twice as long each further time: many runs look at once.
    """
    async with database.transaction() as connection:
        ended = await connection.fetchval(
            "update batches set state = 'ended', ended_at = clock_timestamp() "
            "where batch_id = $1 and holder = $2 and state = 'sending' returning batch_id",
            batch_id,
            lease.holder,
        )
        if ended is not None:
            await connection.execute(
                "update batch_requests set state = 'gathered', batch_id = null, "
                "not_before = clock_timestamp() + make_interval(secs => $3 * 2 ^ (tries - 1)) "
                "where batch_id = $1 and state = 'sent' and tries < $2",
                batch_id,
                max_tries,
                wait_s,
            )
    return ended is not None


async def waiting(database: Database, batch_id: str) -> list[Waiting]:
    """The requests of a batch that have no end yet; those of cancelled runs among them, whose answers settle what they are charged."""
    rows = await database.fetch(
        "select call_id, tries, call from batch_requests "
        "where batch_id = $1 and state in ('sent', 'left') and call is not null order by call_id",
        batch_id,
    )
    return [Waiting(row["call_id"], row["tries"], GatheredCall.model_validate_json(row["call"])) for row in rows]


async def others(database: Database, batch: Batch) -> frozenset[str]:
    """The provider's ids of other batches from about the same time."""
    rows = await database.fetch(
        "select provider_batch_id from batches where provider = $1 and batch_id <> $2 and provider_batch_id is not null "
        "and made_at > $3::timestamptz - interval '1 day'",
        batch.provider,
        batch.batch_id,
        batch.made_at,
    )
    return frozenset(row["provider_batch_id"] for row in rows)


async def answered(database: Database, call_id: int) -> None:
    """Note that the answer is recorded."""
    await database.execute("update batch_requests set state = 'answered', call = null where call_id = $1", call_id)


async def fail(database: Database, call_id: int, failure_class: str, failure: str, *, unknown: bool, goes_on: bool) -> None:
    """End a request that brought no answer; `unknown`: it may have been billed, and is charged as reserved."""
    text = redact(storable(failure))
    await database.execute("select fail_batch_request($1, $2, $3, $4, $5)", call_id, failure_class, text, unknown, goes_on)


async def end(database: Database, batch_id: str) -> None:
    """Note that nothing more is to be had of a batch."""
    await database.execute("update batches set state = 'ended', ended_at = clock_timestamp() where batch_id = $1", batch_id)


async def leave(database: Database, call_id: int) -> LeftBehind | None:
    """Take a cancelled run's request out; the batch, when nobody else waits for it and the provider has it."""
    row = await database.fetchrow("select * from leave_batch($1)", call_id)
    return None if row is None or row["provider_batch_id"] is None else LeftBehind(**dict(row))


async def settle_abandoned(database: Database, older_than_s: float) -> int:
    """End requests whose runs ended without a word, and forget batches that ended long ago; returns how many requests there were."""
    left = await database.fetch(
        "select call_id, state from batch_requests where state in ('gathered', 'sent') "
        "and made_at < clock_timestamp() - make_interval(secs => $1)",
        older_than_s,
    )
    for row in left:
        unknown = row["state"] == "sent"
        await fail(database, row["call_id"], "transient", "nobody asked for its batch any more", unknown=unknown, goes_on=True)
    await database.execute(
        "update batches b set state = 'ended', ended_at = clock_timestamp() where state <> 'ended' "
        "and made_at < clock_timestamp() - make_interval(secs => $1) "
        "and not exists (select from batch_requests q where q.batch_id = b.batch_id and q.state = 'sent')",
        older_than_s,
    )
    await database.execute(
        "delete from batches where state = 'ended' and ended_at < clock_timestamp() - make_interval(days => $1)", KEPT_DAYS
    )
    return len(left)


_COLUMNS: Final = (
    "batch_id, provider, key, model, state, provider_batch_id, troubles, made_at, "
    "extract(epoch from clock_timestamp() - made_at)::float as age_s"
)


def _batch(row: Any) -> Batch | None:
    return None if row is None else Batch(**dict(row))
