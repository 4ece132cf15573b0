"""Which keys each worker has, by name and place; never the keys themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

from state import transcripts
from state.pool import Database
from workflows.contracts.redaction import redact

SEEN_EVERY_S: Final = 25.0
LIVE_S: Final = 75.0
"""A worker that was silent for so long has ended."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One key as a worker has it."""

    provider: str
    key: str
    source: str
    """The variable, file or program that it is read from."""
    problem: str | None
    """Why the worker cannot use it."""


@dataclass(frozen=True, slots=True)
class WorkerKey:
    """One key on one worker."""

    worker: str
    provider: str
    key: str
    source: str
    problem: str | None
    seen_at: datetime


async def tell(database: Database, worker: str, keys: Sequence[KeyRow]) -> None:
    """Write down a worker's keys in place of what it said before, in one round trip."""
    rows = [asdict(each) | {"problem": None if each.problem is None else redact(transcripts.storable(each.problem))} for each in keys]
    await database.execute(
        """with gone as (delete from worker_keys w where worker = $1 and not exists (
               select from jsonb_to_recordset($2) as x(provider text, key text) where x.provider = w.provider and x.key = w.key))
           insert into worker_keys (worker, provider, key, source, problem, read_at, seen_at)
           select $1, x.provider, x.key, x.source, x.problem, case when x.problem is null then clock_timestamp() end, clock_timestamp()
             from jsonb_to_recordset($2) as x(provider text, key text, source text, problem text)
           on conflict (worker, provider, key) do update set source = excluded.source, problem = excluded.problem,
               read_at = coalesce(excluded.read_at, worker_keys.read_at), seen_at = excluded.seen_at""",
        worker,
        rows,
    )


async def leave(database: Database, worker: str) -> None:
    """The worker has ended."""
    await database.execute("delete from worker_keys where worker = $1", worker)


async def live(database: Database) -> list[WorkerKey]:
    """The keys of all workers that were seen lately."""
    rows = await database.fetch(
        "select worker, provider, key, source, problem, seen_at from worker_keys "
        "where seen_at > clock_timestamp() - make_interval(secs => $1) order by provider, key, worker",
        LIVE_S,
    )
    return [WorkerKey(**dict(row)) for row in rows]
