"""Runs that share what another run has recorded: forks, and runs reborn from one that died (docs/adr/0019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from state import dead_letters, model_calls, people, transcripts
from state.pool import Database
from workflows.contracts.errors import RunStateError, UnknownRunError
from workflows.contracts.messages import Message
from workflows.contracts.redaction import redact

Mode = Literal["fork", "rebirth"]

ALL_STEPS: Final = 2**31 - 1
"""A step that no run reaches: everything that is recorded is shared."""


@dataclass(frozen=True, slots=True)
class EditedCall:
    """Other arguments for the call at the step that a fork begins with; `ref` is what orchestration knows of them."""

    call_id: str
    arguments: str
    ref: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewFork:
    """A run to found on another one's recorded steps before `until_step`."""

    old: str
    new: str
    until_step: int
    mode: Mode
    definition_hash: str
    cost_limit_usd: Decimal
    by: str
    message: Message | None = None
    """In place of the first message."""
    edited: EditedCall | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run has its first steps from. `at_step` is None on a sub-run."""

    run_id: str
    forked_from: str
    at_step: int | None
    mode: Mode
    by: str | None
    at: datetime

    def words(self) -> str:
        """The same in words, as people read it beside a run."""
        return told(self.mode, self.forked_from, self.at_step)


def told(mode: Mode, old: str, at_step: int | None = None) -> str:
    """Whence a run is, in words."""
    if mode == "rebirth":
        return f"reborn from {old}"
    return f"forked from {old}" + ("" if at_step is None else f" at step {at_step}")


async def found(database: Database, fork: NewFork) -> bool:
    """Write the new run with all that it shares, in one transaction; False when it was there already.

    A run that is reborn leaves no open question and no dead letter behind: nobody could answer them any more.

    Raises:
        UnknownRunError: the old run is not in the database.
        RunStateError: the new run's id is another run's.
    """
    message = transcripts.clean(fork.message) if fork.message else None
    edited = fork.edited
    async with database.transaction() as connection:
        outcome: str = await connection.fetchval(
            "select fork_run($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12)",
            fork.old,
            fork.new,
            fork.until_step,
            fork.mode,
            fork.definition_hash,
            fork.cost_limit_usd,
            fork.by,
            transcripts.as_json(message) if message else None,
            transcripts.estimate_tokens(message) if message else None,
            edited.call_id if edited else None,
            redact(transcripts.storable(edited.arguments)) if edited else None,
            edited.ref if edited else None,
        )
        if outcome == "made" and fork.mode == "rebirth":
            for run_id in [fork.old, *await connection.fetchval(_FAMILY, fork.old)]:
                await people.withdraw(connection, run_id, fork.by, f"reborn as {fork.new}")
                await dead_letters.withdraw(connection, run_id, fork.by, f"reborn as {fork.new}")
    if outcome == "no_run":
        raise UnknownRunError(f"No run has the id {fork.old!r}: `holdfast runs` lists them.")
    if outcome == "taken":
        raise RunStateError(f"The id {fork.new} is another run's: choose one that is free.")
    return outcome == "made"


async def recorded_turns(database: Database, run_id: str) -> list[dict[str, Any]]:
    """What is recorded of a run's answered model calls, in order of their steps: turns and summaries."""
    rows = await database.fetch("select turn from model_calls where run_id = $1 and state = 'recorded' and step >= 1 order by step", run_id)
    return [row["turn"] for row in rows]


_FAMILY: Final = "select coalesce(array_agg(run_id order by cardinality(ancestors), run_id), '{}') from runs where $1 = any(ancestors)"


async def family(database: Database, run_id: str) -> list[str]:
    """The ids of a run's sub-runs, at any depth, callers first."""
    ids: list[str] = await database.fetchval(_FAMILY, run_id)
    return ids


async def origins(database: Database, run_ids: Sequence[str]) -> dict[str, Origin]:
    """Those of the runs that were forked or reborn, with where from."""
    rows = await database.fetch(
        "select run_id, forked_from, forked_at_step as at_step, fork_mode as mode, forked_by as by, created_at as at from runs "
        "where run_id = any($1::text[]) and forked_from is not null",
        list(run_ids),
    )
    return {row["run_id"]: Origin(**dict(row)) for row in rows}


async def reborn(database: Database, run_id: str) -> list[str]:
    """The lives of a run, the first one first: itself, or what it was reborn from, and all that were reborn after it."""
    rows = await database.fetch(
        "with recursive back as ("
        "  select run_id, forked_from, fork_mode from runs where run_id = $1"
        "  union all select r.run_id, r.forked_from, r.fork_mode from back b join runs r on r.run_id = b.forked_from"
        "    where b.fork_mode = 'rebirth'"
        "), lives as ("
        "  select run_id, 0 as life from back where fork_mode is distinct from 'rebirth'"
        "  union all select r.run_id, l.life + 1 from lives l join runs r on r.forked_from = l.run_id and r.fork_mode = 'rebirth'"
        "    and r.parent_run_id is null"
        ") select run_id from lives order by life",
        run_id,
    )
    return [row["run_id"] for row in rows]


@dataclass(frozen=True, slots=True)
class Undone:
    """An effect of a step that is shared, and was undone."""

    run_id: str
    step: int
    tool: str


async def first_undone(database: Database, run_id: str, until_step: int) -> Undone | None:
    """The first effect before a step that was undone, sub-runs and origins included: who shares its step would take it for done."""
    found = await database.fetchrow(
        """
with recursive chain as (
    select run_id, forked_from, forked_at_step, $2::integer as until_step from runs where run_id = $1
    union all
    select r.run_id, r.forked_from, r.forked_at_step, least(c.until_step, c.forked_at_step)
      from chain c join runs r on r.run_id = c.forked_from
)
select x.run_id, x.step, x.tool from (
    select c.run_id, e.tool, case when s.run_id = c.run_id then e.step
                                  else split_part(substr(s.run_id, length(c.run_id) + 2), '.', 1)::integer end as step, c.until_step
      from chain c join runs s on s.run_id = c.run_id or c.run_id = any(s.ancestors)
      join effects e on e.run_id = s.run_id and e.state in ('undone', 'undoing')
) x where x.step < x.until_step order by x.step limit 1
""",
        run_id,
        until_step,
    )
    return None if found is None else Undone(**dict(found))


async def in_flight(database: Database, run_id: str) -> list[int]:
    """The model calls that a run and its sub-runs have in the air. Those of batches are left out: they may take a day."""
    rows = await database.fetch(
        "select m.call_id from model_calls m join runs r using (run_id) "
        "where (r.run_id = $1 or $1 = any(r.ancestors)) and m.state = 'in_flight' and not m.batch",
        run_id,
    )
    return [row["call_id"] for row in rows]


async def charge_in_flight(database: Database, run_id: str) -> None:
    """Charge what a dead run has in the air as unknown; a late answer settles it to what it cost."""
    for call_id in await in_flight(database, run_id):
        await model_calls.charge_unknown(database, call_id, "transient", "its run died while the call was in the air")
