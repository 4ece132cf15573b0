"""The outbox: what people are to be told, written together with what happened, delivered at least once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from state.pool import Connection, Database
from workflows.contracts.redaction import redact, redact_value

LEASE_S: Final = 60.0
"""A claimed delivery that is not ended by then is another worker's to try."""
LONGEST_PAUSE_S: Final = 3_600.0
KEPT_DAYS: Final = 30


@dataclass(frozen=True, slots=True)
class Notification:
    """One thing to tell."""

    notification_id: int
    key: str
    kind: str
    run_id: str
    body: dict[str, Any]
    attempts: int
    """This one included."""


async def put(connection: Connection, key: str, kind: str, run_id: str, body: dict[str, Any]) -> None:
    """Have something told, when the transaction holds; the same key twice is told once."""
    await connection.execute(
        "insert into notifications (key, kind, run_id, body) values ($1, $2, $3, $4) on conflict (key) do nothing",
        key,
        kind,
        run_id,
        redact_value(body),
    )


_CLAIM: Final = """
update notifications n set attempts = n.attempts + 1, due_at = clock_timestamp() + make_interval(secs => $2)
  from (select notification_id from notifications where state = 'waiting' and due_at <= clock_timestamp()
         order by due_at limit $1 for update skip locked) due
 where n.notification_id = due.notification_id
returning n.notification_id, n.key, n.kind, n.run_id, n.body, n.attempts
"""


async def claim(database: Database, limit: int, lease_s: float = LEASE_S) -> list[Notification]:
    """What is due now; nobody else gets it within the lease."""
    rows = await database.fetch(_CLAIM, limit, lease_s)
    return [Notification(**dict(row)) for row in rows]


async def delivered(database: Database, told: Notification) -> None:
    """It has been told."""
    await database.execute(
        "update notifications set state = 'delivered', ended_at = clock_timestamp(), problem = null where notification_id = $1",
        told.notification_id,
    )


async def failed(database: Database, told: Notification, problem: str, *, give_up: bool) -> None:
    """It could not be told: try again after a pause that doubles, or give it up."""
    await database.execute(
        "update notifications set problem = $2, state = case when $3 then 'given_up' else state end, "
        "ended_at = case when $3 then clock_timestamp() end, "
        "due_at = clock_timestamp() + make_interval(secs => least($4::float8, power(2, least(attempts, 20)))) where notification_id = $1",
        told.notification_id,
        redact(problem)[:500],
        give_up,
        LONGEST_PAUSE_S,
    )


async def forget(database: Database) -> None:
    """Remove what was delivered, or given up, long ago."""
    await database.execute(
        "delete from notifications where state <> 'waiting' and ended_at < clock_timestamp() - make_interval(days => $1)", KEPT_DAYS
    )
