"""Questions to people, and the audit record of what people ordered."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from state import edits, transcripts
from state.pool import Connection, Database
from workflows.contracts.errors import UnknownRunError
from workflows.contracts.people import AskRequest, Note, RecordRequest
from workflows.contracts.redaction import redact

SHOWN_CHARS: Final = 4_000
"""How much of a conversation a person is shown beside the arguments; the whole is in the transcript."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is stored."""

    run_id: str
    step: int
    asked: int
    call_id: str
    kind: str
    model_step: int
    tenant: str
    agent: str
    tool: str
    user_id: str | None
    arguments: str
    version: int
    why: str
    context: str
    result: str | None
    reason: str
    risk: str
    named: list[str]
    allowed: list[str]
    quorum: int
    not_by_user: bool
    since: datetime
    until: datetime | None
    voting_since: datetime
    reminders: int
    escalated: bool
    state: str
    settled_by: str | None
    outcome: str | None
    settled_at: datetime | None


async def lock(connection: Connection, run_id: str) -> None:
    """Let what is written of one run's people happen one after the other, until the transaction ends."""
    await edits.lock(connection, run_id)


_OPEN: Final = """
insert into questions (run_id, step, asked, call_id, kind, model_step, tenant, agent, tool, user_id,
                       arguments, version, why, context, result,
                       reason, risk, named, allowed, quorum, not_by_user, since, until, voting_since)
select r.run_id, $2, $3, $4, $5, $6, $7, $8, $9, $10,
       coalesce(edited.arguments, called.arguments, ''), coalesce(edited.version, 1), coalesce(left(said.text, $19), ''),
       coalesce(left(heard.text, $19), ''), left(held.text, $19),
       $11, $12, $13, $14, $15, $16, $17, $18, $17
  from runs r
  left join lateral (select e.arguments, e.version from edited_arguments e where e.run_id = $1 and e.step = $2
                      order by e.version desc limit 1) edited on true
  left join lateral (select c->>'arguments' as arguments from transcript t, jsonb_array_elements(t.message->'tool_calls') c
                      where t.run_id = $1 and t.step = $6 and t.part = 0 and c->>'call_id' = $4 limit 1) called on true
  left join lateral (select t.message->>'text' as text from transcript t where t.run_id = $1 and t.step = $6 and t.part = 0) said on true
  left join lateral (select t.message->>'text' as text from transcript t
                      where t.run_id = $1 and t.step between 0 and $6 - 1 and t.part = 0 and t.message->>'role' = 'user'
                        and t.summary_through is null order by t.step desc limit 1) heard on true
  left join lateral (select t.message->>'text' as text from transcript t
                      where t.run_id = $1 and t.step = $2 and t.part = 0 and $5 = 'result') held on true
 where r.run_id = $1
on conflict (run_id, step, asked) do nothing
"""
_ESCALATE: Final = """
update questions set escalated = true, named = $4, allowed = $5, until = $6, voting_since = $7
 where run_id = $1 and step = $2 and asked = $3 and state = 'open' and not escalated
"""
_LOOK_UP: Final = """
update questions set reminders = greatest(reminders, $4), allowed = $5
 where run_id = $1 and step = $2 and asked = $3 and state = 'open' and escalated = $6
"""
_SETTLED_EARLIER: Final = """
update questions q set state = 'settled', settled_by = d.by, outcome = d.order_name, settled_at = d.at
  from (select by, order_name, at from decisions
         where run_id = $1 and step = $2 and closes and letter is null and at >= $4 order by number limit 1) d
 where q.run_id = $1 and q.step = $2 and q.asked = $3 and q.state = 'open'
"""
"""A decision can be recorded before the question that it settles: the two are written by activities of their own."""


async def put(connection: Connection, request: AskRequest, allowed: tuple[str, ...]) -> Question:
    """Put a question into the inbox, remind of it, escalate it, or enter who may decide now; the same twice is once.

    `allowed` is for the occasion's people.

    Raises:
        UnknownRunError: the run is not in this database.
    """
    policy, at = request.policy, (request.run_id, request.step, request.asked)
    await lock(connection, request.run_id)
    opened = [] if request.escalated else list(allowed)
    await connection.execute(
        _OPEN,
        *at,
        request.call_id,
        request.kind,
        request.model_step,
        request.tenant,
        request.agent.name,
        request.tool,
        request.user,
        redact(transcripts.storable(request.reason)),
        policy.risk,
        list(policy.by),
        opened,
        policy.quorum,
        policy.not_by_user,
        request.since,
        request.until,
        SHOWN_CHARS,
    )
    if request.occasion == "escalated":
        voting_since = request.until - timedelta(seconds=policy.timeout_s or 0) if request.until else request.since
        await connection.execute(_ESCALATE, *at, list(policy.escalate_to), list(allowed), request.until, voting_since)
    elif request.occasion != "opened":
        await connection.execute(_LOOK_UP, *at, request.number, list(allowed), request.escalated)
    await connection.execute(_SETTLED_EARLIER, *at, request.since)
    found = await connection.fetchrow("select * from questions where run_id = $1 and step = $2 and asked = $3", *at)
    if found is None:
        raise UnknownRunError(f"Run {request.run_id} is not in this database: is DATABASE_URL the one it was started with?")
    return Question(**dict(found))


async def withdraw(connection: Connection, run_id: str, by: str, outcome: str) -> list[Question]:
    """Ask nobody any more what a run has asked; gives what was withdrawn."""
    await lock(connection, run_id)
    rows = await connection.fetch(
        "update questions set state = 'withdrawn', settled_by = $2, outcome = $3, settled_at = clock_timestamp() "
        "where run_id = $1 and state = 'open' returning *",
        run_id,
        by,
        outcome,
    )
    return [Question(**dict(row)) for row in rows]


_NOTE: Final = """
insert into decisions (run_id, number, tenant, at, order_name, channel, by, call_id, step, outcome, reason, given, version, arguments_hash,
                       closes, letter, action)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
on conflict (run_id, number) where number is not null do nothing returning decision_id
"""
_SETTLE: Final = """
update questions set state = 'settled', settled_by = $3, outcome = $4, settled_at = $5
 where run_id = $1 and step = $2 and state = 'open' and since <= $5
"""


async def note(connection: Connection, request: RecordRequest, entry: Note) -> bool:
    """Append one note to the audit record, and settle the question that it closes; False when it is there already."""
    await lock(connection, request.run_id)
    about = entry.step is not None and entry.call_id is not None and entry.version is not None
    arguments = await _arguments(connection, request.run_id, entry) if about else None
    added = await connection.fetchval(
        _NOTE,
        request.run_id,
        entry.number,
        request.tenant,
        entry.at,
        _kept(entry.order),
        entry.channel,
        _kept(entry.by),
        None if entry.call_id is None else _kept(entry.call_id),
        entry.step,
        entry.outcome,
        _kept(entry.reason),
        _kept(entry.given),
        entry.version,
        None if arguments is None else hashlib.sha256(arguments.encode()).hexdigest(),
        entry.closes,
        entry.letter,
        entry.action,
    )
    if added is None:
        return False
    if entry.outcome not in ("accepted", "counted"):
        await edits.take_back(connection, request.run_id, entry.number)
    if entry.closes and entry.letter is None and entry.step is not None:
        await connection.execute(_SETTLE, request.run_id, entry.step, _kept(entry.by), _kept(entry.order), entry.at)
    return True


async def note_refused(database: Database, run_id: str, refused: dict[str, str], reason: str) -> None:
    """Append an order that never reached its run, because the run had ended; nothing for a run that is not known here."""
    await database.execute(
        "insert into decisions (run_id, tenant, at, order_name, channel, by, call_id, outcome, reason, given) "
        "select run_id, tenant, clock_timestamp(), $2, 'client', $3, $4, 'refused', $5, $6 from runs where run_id = $1",
        run_id,
        _kept(refused["order"]),
        _kept(refused["by"]),
        refused.get("call_id"),
        _kept(reason),
        _kept(refused.get("given", "")),
    )


_VERSION: Final = """
select coalesce(
    (select arguments from edited_arguments where run_id = $1 and step = $2 and version = $4),
    (select c->>'arguments' from transcript t, jsonb_array_elements(t.message->'tool_calls') c
      where t.run_id = $1 and t.step < $2 and t.part = 0 and c->>'call_id' = $3 order by t.step desc limit 1))
"""


async def _arguments(connection: Connection, run_id: str, entry: Note) -> str | None:
    """The arguments of the version that was decided on."""
    found: str | None = await connection.fetchval(_VERSION, run_id, entry.step, entry.call_id, entry.version)
    return found


def _kept(text: Any) -> str:
    return redact(transcripts.storable(str(text)))
