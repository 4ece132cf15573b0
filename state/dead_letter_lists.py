"""Dead letters read: which there are, one of them whole, and those that have been open for long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from state.pool import Database

State = Literal["open", "redriven", "skipped", "aborted", "withdrawn"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One of them, as it stands."""

    run_id: str
    letter: int
    step: int
    tenant: str
    agent: str
    agent_version: str
    definition_hash: str
    model: str
    limits: dict[str, Any]
    user_id: str | None
    failure_class: str
    cause: str
    chain: Sequence[str]
    what: str
    tool: str | None
    call_id: str
    model_step: int
    input: dict[str, Any]
    tried: list[dict[str, Any]]
    state: State
    parked_at: datetime
    filed_at: datetime
    reported_at: datetime | None
    settled_at: datetime | None
    settled_by: str | None
    reason: str
    result: str

    @property
    def id(self) -> str:
        """As people and orders name it: RUN:LETTER."""
        return f"{self.run_id}:{self.letter}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilter:
    """Which ones; None leaves a choice open."""

    state: State | None = "open"
    run_id: str | None = None
    failure_class: str | None = None
    agent: str | None = None
    tenant: str | None = None
    model: str | None = None
    """PROVIDER:MODEL, a tier, or the model without its provider: the agent's, or one that the step has tried."""
    user: str | None = None
    tool: str | None = None
    text: str | None = None
    """What its cause, or what lay behind it, says; upper and lower case are one."""
    older_than_s: float | None = None
    younger_than_s: float | None = None
    filed_until: datetime | None = None
    """By the database's clock."""


_COLUMNS: Final = ", ".join(DeadLetter.__dataclass_fields__)
_FITS: Final = """
    ($1::text is null or state = $1) and ($2::text is null or run_id = $2) and ($3::text is null or failure_class = $3)
and ($4::text is null or agent = $4) and ($5::text is null or tenant = $5)
and ($6::text is null or $6 in (model, split_part(model, ':', 2))
     or exists (select from jsonb_array_elements(tried) t where $6 in (t->>'model', split_part(t->>'model', ':', 2))))
and ($7::text is null or user_id = $7) and ($8::text is null or tool = $8)
and ($9::text is null or position(lower($9) in lower(cause || ' ' || array_to_string(chain, ' '))) > 0)
and ($10::double precision is null or parked_at < clock_timestamp() - make_interval(secs => $10))
and ($11::double precision is null or parked_at >= clock_timestamp() - make_interval(secs => $11))
and ($12::timestamptz is null or filed_at <= $12)"""


async def find(database: Database, wanted: LetterFilter, *, limit: int, after: DeadLetter | None = None) -> list[DeadLetter]:
    """Those that fit, oldest first; the next page begins after the last of this one."""
    rows = await database.fetch(
        f"select {_COLUMNS} from dead_letters where {_FITS} "  # noqa: S608 - our own names and text
        "and ($14::timestamptz is null or (parked_at, run_id, letter) > ($14, $15, $16)) order by parked_at, run_id, letter limit $13",
        *_given(wanted),
        limit,
        after.parked_at if after else None,
        after.run_id if after else None,
        after.letter if after else None,
    )
    return [_letter(row) for row in rows]


async def count(database: Database, wanted: LetterFilter) -> int:
    """How many fit."""
    found: int = await database.fetchval(f"select count(*) from dead_letters where {_FITS}", *_given(wanted))  # noqa: S608 - our own text
    return found


async def get(database: Database, run_id: str, letter: int) -> DeadLetter | None:
    """One of them, or None."""
    row = await database.fetchrow(
        f"select {_COLUMNS} from dead_letters where run_id = $1 and letter = $2",  # noqa: S608 - our own names
        run_id,
        letter,
    )
    return None if row is None else _letter(row)


async def standing(database: Database, letters: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[State, str | None]]:
    """How the named ones stand now, and who has settled them."""
    rows = await database.fetch(
        "select run_id, letter, state, settled_by from dead_letters "
        "join unnest($1::text[], $2::integer[]) named (run_id, letter) using (run_id, letter)",
        [run_id for run_id, _ in letters],
        [letter for _, letter in letters],
    )
    return {(row["run_id"], row["letter"]): (row["state"], row["settled_by"]) for row in rows}


_REFUSALS: Final = """
select distinct on (l.run_id, l.letter) l.run_id, l.letter, d.reason
  from unnest($1::text[], $2::integer[]) named (run_id, letter)
  join dead_letters l using (run_id, letter)
  join decisions d on d.run_id = l.run_id and d.step = l.step and d.order_name = 'redrive' and d.outcome = 'refused' and d.by = $3
                  and d.recorded_at >= $4
 order by l.run_id, l.letter, d.decision_id desc"""


async def refusals(database: Database, letters: Sequence[tuple[str, int]], *, by: str, since: datetime) -> list[tuple[str, str]]:
    """Which of the named ones their runs have refused to settle since then, when this person ordered it; and why."""
    if not letters:
        return []
    rows = await database.fetch(_REFUSALS, [run_id for run_id, _ in letters], [letter for _, letter in letters], by, since)
    return [(f"{row['run_id']}:{row['letter']}", row["reason"]) for row in rows]


async def take_old(database: Database, *, older_than_s: float, again_after_s: float, limit: int) -> list[DeadLetter]:
    """Claim those that are open for longer, to be told of; each again only when as much time has passed, over all workers."""
    rows = await database.fetch(
        f"""update dead_letters set reported_at = clock_timestamp() where (run_id, letter) in (
            select run_id, letter from dead_letters
             where state = 'open' and parked_at < clock_timestamp() - make_interval(secs => $1)
               and (reported_at is null or reported_at < clock_timestamp() - make_interval(secs => $2))
             order by parked_at, run_id, letter limit $3 for update skip locked
        ) returning {_COLUMNS}""",  # noqa: S608 - our own names
        older_than_s,
        again_after_s,
        limit,
    )
    return [_letter(row) for row in rows]


def _given(wanted: LetterFilter) -> tuple[Any, ...]:
    return tuple(getattr(wanted, name) for name in LetterFilter.__dataclass_fields__)


def _letter(row: Any) -> DeadLetter:
    return DeadLetter(**dict(row))
