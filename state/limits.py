"""The limits that all workers share: taken in batches, one statement each; and what stands now, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg

from state.pool import Database, TransactionUndoneError
from workflows.contracts.inference import Priority

PRIORITIES = tuple(Priority)
ATTEMPTS = 3
TOLD_FOR_S = 600.0
"""How long a provider's word on a limit is believed; as in take_limits, as is the next."""
CELL_S = 0.125


@dataclass(slots=True)
class Batch:
    """What one worker asks at once, in columns. Buckets are sorted by name and meant by their place, counted from 1."""

    names: list[str] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    periods_s: list[float] = field(default_factory=list)
    headrooms: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    settled: tuple[list[int], list[float], list[float], list[float]] = field(default_factory=lambda: ([], [], [], []))
    """Bucket, reserved, used, moment of the slot."""
    told: tuple[list[int], list[float | None], list[float | None]] = field(default_factory=lambda: ([], [], []))
    """Bucket, the provider's limit, what it says remains."""
    cooled: tuple[list[int], list[float]] = field(default_factory=lambda: ([], []))
    """Bucket, seconds without a slot."""
    asks: tuple[list[str], list[int]] = field(default_factory=lambda: ([], []))
    """Ticket, place of its form."""
    forms: tuple[list[int], list[int], list[float], list[float], list[int]] = field(default_factory=lambda: ([], [], [], [], []))
    """What asks have in common, written once: their number, priority, horizon_s, passed_by_s, place of the last alternative."""
    alternatives: tuple[list[str], list[float], list[int]] = field(default_factory=lambda: ([], [], []))
    """Label, penalty_s, place of the last demand."""
    demands: tuple[list[int], list[float]] = field(default_factory=lambda: ([], []))
    """Bucket, amount."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A batch's answer, a place an ask: the alternative given (0: none), its slot, the moment expected, the bucket that binds."""

    at: float
    got: Sequence[int]
    """Below 0: its reserved slot, which was charged for when it was given out."""
    slots: Sequence[float] | None
    """None, as all that follow: every ask is given its slot at once."""
    expected: Sequence[float] | None
    binding: Sequence[int] | None
    told_s: Sequence[float | None] | None
    charged: Sequence[float] | None = None
    """What the reserved slots had taken: a place a demand, one slot after the other."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a model's answers taught, as moving means over `samples` answers."""

    model: str
    input_factor: float
    output_tokens: float
    output_deviation: float
    samples: int


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit as it stands. Units are requests, tokens or calls, as its name says."""

    name: str
    kind: str
    limit: float
    """As configured."""
    in_force: float
    """What is used of it at most: lowered by the provider's word and the headroom."""
    free_now: float
    """The largest call that would get a slot at once."""
    held: float
    """Calls in the air, where they are counted."""
    told_limit: float | None
    told_remaining: float | None
    told_at: datetime | None
    blocked_until: datetime | None
    booked_s: float
    """Seconds until all that is given out is worked off."""
    waiting: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A step that waits for a limit."""

    run_id: str
    step: int
    priority: str
    limit: str
    reserved: bool
    """Whether its slot is reserved, or it will ask again when one is near."""
    since: datetime
    expected_s: float
    told_s: float


async def take(database: Database, batch: Batch, worker: str, near_s: float, promise_s: float) -> Taken:
    """Settle, tell and ask, in one round trip.

    Raises:
        DatabaseUnavailableError: the database is away; nobody knows whether the batch arrived.
    """
    for attempt in range(ATTEMPTS):
        try:
            found = await database.fetchrow(_TAKE, *_arguments(batch, worker), near_s, promise_s)
        except TransactionUndoneError:
            if attempt == ATTEMPTS - 1:
                raise
            continue
        if found is not None and found["at"] is not None:
            return Taken(found["at"], found["got"], found["slots"], found["expected"], found["binding"], found["told"], found["charged"])
        await database.execute("select ensure_limits($1, $2)", batch.names, batch.kinds)
    raise LookupError("the limits' rows vanish as soon as they are made")


async def step_out(database: Database, ticket: str) -> None:
    """Leave the lines of whoever will not ask again: nobody behind is held back by it. A slot that it has reserved stays."""
    await database.execute(
        "with gone as (delete from limit_lines where ticket = $1) delete from limit_tickets where ticket = $1 and not reserved", ticket
    )


async def renew(database: Database, worker: str, held: Mapping[str, float], lessons: Sequence[Lesson]) -> dict[str, Lesson]:
    """Say that this worker lives and what it holds, hand in what it learned; gives what all workers have learned, by model."""
    rows = await database.fetch(
        "select * from renew_limits($1,$2,$3,$4,$5,$6,$7,$8)",
        worker,
        list(held),
        list(held.values()),
        [lesson.model for lesson in lessons],
        [lesson.input_factor for lesson in lessons],
        [lesson.output_tokens for lesson in lessons],
        [lesson.output_deviation for lesson in lessons],
        [lesson.samples for lesson in lessons],
    )
    return {row["model"]: Lesson(**dict(row)) for row in rows}


async def let_go(database: Database, worker: str) -> None:
    """Forget what a worker holds, when it ends in order."""
    await database.execute("delete from limit_holds where worker = $1", worker)


async def standing(database: Database) -> list[Limit]:
    """Every limit that was ever asked of, by name."""
    return [_limit(row) for row in await database.fetch(_STANDING)]


async def waiting(database: Database, run_id: str | None = None) -> list[Waiting]:
    """Who waits, soonest first; of one run only, where it is named."""
    rows = await database.fetch(
        "select *, limit_now() as at from limit_tickets "
        "where expires_at > limit_now() and ($1::text is null or starts_with(ticket, $1 || ':')) "
        "order by expected_at, ticket",
        run_id,
    )
    return [_waiting(row) for row in rows]


_TAKE = "select * from take_limits(" + ",".join(f"${place}" for place in range(1, 30)) + ")"  # noqa: S608 - only places
_STANDING = """
select b.*, limit_now() as at,
       (select coalesce(sum(h.held), 0) from limit_holds h
         where h.bucket = b.name and h.expires_at > limit_now()) as held,
       (select count(*) from limit_tickets t
         where t.bucket = b.name and t.expires_at > limit_now()) as waiting
  from limit_buckets b order by b.name
"""


def _arguments(batch: Batch, worker: str) -> tuple[Any, ...]:
    buckets = (batch.names, batch.limits, batch.periods_s, batch.headrooms, batch.held)
    return (worker, *buckets, *batch.settled, *batch.told, *batch.cooled, *batch.asks, *batch.forms, *batch.alternatives, *batch.demands)


def _limit(row: asyncpg.Record) -> Limit:
    kind = {1: "rate", 2: "day", 3: "concurrency"}[row["kind"]]
    told = row["told_at"] is not None and abs(row["at"] - row["told_at"]) <= TOLD_FOR_S
    effective = min(row["limit_units"], (row["told_limit"] if told else None) or row["limit_units"])
    usable = effective if kind == "concurrency" else effective * (1 - row["headroom"])
    booked_s = max(0.0, row["tat"] - row["at"]) if kind == "rate" else 0.0
    if kind == "rate":
        free = _rate_free(row, effective, usable)
    elif kind == "day":
        free = usable - row["used"] if row["day"] == int(row["at"] // 86_400) else usable
    else:
        free = usable - row["held"]
    if row["blocked_until"] > row["at"]:
        free = 0.0
    return Limit(
        name=row["name"],
        kind=kind,
        limit=row["limit_units"],
        in_force=usable,
        free_now=max(0.0, free),
        held=row["held"] if kind == "concurrency" else 0.0,
        told_limit=row["told_limit"],
        told_remaining=row["told_remaining"],
        told_at=_moment(row["told_at"]),
        blocked_until=_moment(row["blocked_until"]) if row["blocked_until"] > row["at"] else None,
        booked_s=booked_s,
        waiting=row["waiting"],
    )


def _rate_free(row: asyncpg.Record, effective: float, usable: float) -> float:
    """The largest call that take_limits would give a slot at once: it delays nothing that is given out already."""
    at, period_s = row["at"], row["period_s"]
    burst_s = max(0.0, effective * row["headroom"] * period_s / usable - CELL_S)
    booked = max(row["tat"], at)
    free_s: float = burst_s - (booked - at)
    ahead, cell = row["ahead"] or (), int(at // CELL_S)
    for later in range(cell + 1, cell + 1 + len(ahead)):
        booked += ahead[later % len(ahead)]
        if ahead[later % len(ahead)] > 0:
            free_s = min(free_s, burst_s + (later + 1) * CELL_S - booked)
    epoch = int(at // (period_s + 16))
    largest = max(row["largest"] if row["epoch"] >= epoch - 1 else 0.0, row["largest_before"] if row["epoch"] >= epoch else 0.0)
    pace = usable if largest <= effective - usable else max(0.0, effective - largest)
    free: float = max(0.0, free_s) * pace / period_s
    return free


def _waiting(row: asyncpg.Record) -> Waiting:
    run_id, _, step = row["ticket"].rpartition(":")
    return Waiting(
        run_id=run_id or row["ticket"],
        step=int(step) if step.isdigit() else 0,
        priority=PRIORITIES[row["priority"]].value,
        limit=row["bucket"],
        reserved=row["reserved"],
        since=datetime.fromtimestamp(row["asked_at"], UTC),
        expected_s=max(0.0, row["expected_at"] - row["at"]),
        told_s=row["told_s"],
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
