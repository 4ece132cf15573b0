"""Effects read for people: which there are, one of them by name, and what people ruled of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from state.pool import Database


@dataclass(frozen=True, slots=True)
class EffectFilter:
    """Which effects; what is None leaves a choice open."""

    tenant: str | None = None
    run_id: str | None = None
    """Of the run itself and its sub-runs."""
    tool: str | None = None
    unknown: bool = False
    """Only those whose outcome a person must find out."""
    ref: str | None = None
    """The key, or RUN:STEP of the step that did it, or that asks what became of it."""


@dataclass(frozen=True, slots=True)
class ListedEffect:
    """One row of the ledger, as people are shown it."""

    tenant: str
    tool: str
    key: str
    effect: str
    state: str
    run_id: str
    step: int
    attempts: int
    generation: int
    reason: str | None
    arguments: str | None
    result: str | None
    can_undo: bool
    worker: str
    started_at: datetime
    finished_at: datetime | None

    @property
    def step_id(self) -> str:
        """The step that did it, or does it now: RUN:STEP."""
        return f"{self.run_id}:{self.step}"


@dataclass(frozen=True, slots=True)
class EffectRuling:
    """What a person said of an effect of unknown outcome."""

    ruling: str
    ruled_by: str
    reason: str
    ruled_at: datetime


_COLUMNS = (
    "e.tenant, e.tool, e.key, e.effect, e.state, e.run_id, e.step, e.attempts, e.generation, e.reason, e.arguments, "
    "left(e.message->>'text', 2000) as result, e.undo_timeout_s is not null as can_undo, e.worker, e.started_at, e.finished_at"
)
_WHERE = """
 where ($1::text is null or e.tenant = $1)
   and ($2::text is null or e.run_id = $2 or e.run_id in (select r.run_id from runs r where $2 = any(r.ancestors)))
   and ($3::text is null or e.tool = $3)
   and (not $4 or (e.state in ('unknown', 'undoing') and e.state = 'unknown'))
   and ($5::text is null or e.key = $5 or e.run_id || ':' || e.step = $5 or e.questions ? $5)
"""


async def find(database: Database, wanted: EffectFilter, *, limit: int) -> list[ListedEffect]:
    """The effects that fit, newest first."""
    sql = f"select {_COLUMNS} from effects e {_WHERE} order by e.started_at desc limit $6"  # noqa: S608 - our own text
    rows = await database.fetch(sql, wanted.tenant, wanted.run_id, wanted.tool, wanted.unknown, wanted.ref, limit)
    return [ListedEffect(**dict(row)) for row in rows]


async def rulings(database: Database, tenant: str, tool: str, key: str) -> list[EffectRuling]:
    """What people ruled of an effect, in order."""
    rows = await database.fetch(
        "select ruling, ruled_by, reason, ruled_at from effect_rulings where tenant = $1 and tool = $2 and key = $3 order by ruling_id",
        tenant,
        tool,
        key,
    )
    return [EffectRuling(**dict(row)) for row in rows]
