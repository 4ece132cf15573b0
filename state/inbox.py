"""The inbox as people read it: what waits, filtered, with the votes so far; and the audit record of a run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from state.pool import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which questions; None leaves a choice open. With `state` None also those that are settled."""

    run_id: str | None = None
    call_id: str | None = None
    agent: str | None = None
    tenant: str | None = None
    user: str | None = None
    tool: str | None = None
    kind: str | None = None
    who: str | None = None
    """Only what this person may decide."""
    risk: str | None = None
    older_than_s: float | None = None
    state: str | None = "open"
    after: tuple[datetime, str, int, int] | None = None
    """The place of the last one that was read: (since, run_id, step, asked)."""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question in the inbox."""

    run_id: str
    call_id: str
    step: int
    asked: int
    kind: str
    """`approval`: a call needs a yes; `question`: the agent asks; `result`: a result is held back."""
    tenant: str
    agent: str
    tool: str
    user: str | None
    arguments: str
    version: int
    why: str
    """What the model said when it made the call."""
    context: str
    """What the user said last before that."""
    result: str | None
    reason: str
    risk: str
    named: list[str]
    allowed: list[str]
    """Who may decide; empty: everybody."""
    quorum: int
    not_by_user: bool
    since: datetime
    until: datetime | None
    age_s: float
    reminders: int
    escalated: bool
    yes: list[str]
    """Who has said yes so far, where several must."""
    state: str
    settled_by: str | None
    outcome: str | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class Decided:
    """One line of the audit record."""

    run_id: str
    number: int | None
    at: datetime
    recorded_at: datetime
    order: str
    channel: str
    by: str
    call_id: str | None
    step: int | None
    outcome: str
    reason: str
    given: str
    version: int | None
    arguments_hash: str | None
    letter: int | None
    action: str


_QUESTIONS: Final = """
select q.run_id, q.call_id, q.step, q.asked, q.kind, q.tenant, q.agent, q.tool, q.user_id as user, q.arguments, q.version, q.why, q.context,
       q.result, q.reason, q.risk, q.named, q.allowed, q.quorum, q.not_by_user, q.since, q.until,
       greatest(0, extract(epoch from clock_timestamp() - q.since))::float8 as age_s, q.reminders, q.escalated,
       array(select distinct d.by from decisions d
              where d.run_id = q.run_id and d.step = q.step and d.outcome = 'counted' and d.version = q.version
                and d.at >= q.voting_since) as yes,
       q.state, q.settled_by, q.outcome, q.settled_at
  from questions q
"""
_PLAIN: Final = (("run_id", "run_id"), ("call_id", "call_id"), ("agent", "agent"), ("tenant", "tenant"), ("user", "user_id"))
_FIELDS: Final = (*_PLAIN, ("tool", "tool"), ("kind", "kind"), ("risk", "risk"), ("state", "state"))


async def questions(database: Database, wanted: Wanted) -> list[Waiting]:
    """The questions, the oldest first."""
    where, given = _where(wanted)
    given.append(wanted.limit)
    rows = await database.fetch(f"{_QUESTIONS} where {where} order by q.since, q.run_id, q.step, q.asked limit ${len(given)}", *given)
    return [Waiting(**dict(row)) for row in rows]


async def count(database: Database, wanted: Wanted) -> int:
    """How many there are."""
    where, given = _where(wanted)
    return int(await database.fetchval(f"select count(*) from questions q where {where}", *given))  # noqa: S608 - our own column names


def _where(wanted: Wanted) -> tuple[str, list[Any]]:
    parts, given = ["true"], []
    for field, column in _FIELDS:
        value = getattr(wanted, field)
        if value is not None:
            given.append(value)
            parts.append(f"q.{column} = ${len(given)}")
    if wanted.who is not None:
        given.append(wanted.who)
        place = f"${len(given)}"
        parts.append(f"(q.allowed = '{{}}' or {place} = any(q.allowed)) and not (q.not_by_user and q.user_id is not distinct from {place})")
    if wanted.older_than_s is not None:
        given.append(wanted.older_than_s)
        parts.append(f"q.since <= clock_timestamp() - make_interval(secs => ${len(given)})")
    if wanted.after is not None:
        given.extend(wanted.after)
        first = len(given) - 3
        parts.append(f"(q.since, q.run_id, q.step, q.asked) > (${first}, ${first + 1}, ${first + 2}, ${first + 3})")
    return " and ".join(parts), given


async def decisions(database: Database, run_id: str) -> list[Decided]:
    """Everything that people ordered of a run, in the order in which the run judged it."""
    rows = await database.fetch(
        'select run_id, number, at, recorded_at, order_name as "order", channel, by, call_id, step, outcome, reason, given, version, '
        "arguments_hash, letter, action from decisions where run_id = $1 order by at, number nulls last, decision_id",
        run_id,
    )
    return [Decided(**dict(row)) for row in rows]
