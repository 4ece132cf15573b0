"""Dead letters written: a step that cannot go on is filed with all that a person needs, and settled by what they order."""

from __future__ import annotations

from typing import Final

from state import transcripts
from state.dead_letter_lists import DeadLetter, State
from state.pool import Connection
from workflows.contracts import names
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Message, Role
from workflows.contracts.people import Filed, Note, RecordRequest
from workflows.contracts.redaction import redact

ARGUMENTS_SHOWN: Final = 16 * 1024
"""How much of a call's arguments a letter keeps; the whole is in the transcript."""
_TOOLS: Final = ("run_tool ", "agent ", "undo ")
_STATE_AFTER: Final[dict[str, State]] = {"retry": "redriven", "skip": "skipped", "not_done": "skipped", "abort": "aborted"}


_UNKNOWN_OF_STEP: Final = "state = 'unknown' and questions ? ($1 || ':' || $2::text)"
_CALL: Final = """
select jsonb_build_object('kind', 'tool_call', 'name', c->>'name', 'version', coalesce(e.version, 1),
                          'arguments', left(coalesce(e.arguments, c->>'arguments'), $19),
                          'cut', length(coalesce(e.arguments, c->>'arguments')) > $19)
  from transcript t, jsonb_array_elements(t.message->'tool_calls') c
  left join lateral (
      select version, arguments from edited_arguments where run_id = $1 and step = $2 order by version desc limit 1
  ) e on true
 where t.run_id = $1 and t.step = $4 and t.part = 0 and c->>'call_id' = $3"""
_MESSAGES: Final = """
select jsonb_build_object('kind', 'model_call', 'messages', coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'step', step, 'role', message->>'role', 'head', left(regexp_replace(message->>'text', '\\s+', ' ', 'g'), 200),
           'calls', (select jsonb_agg(c->>'name') from jsonb_array_elements(message->'tool_calls') c))) order by step, part), '[]'))
  from (select * from transcript where run_id = $1 and step = 0
        union (select * from transcript where run_id = $1 and step < $2 order by step desc, part desc limit 5)) t"""
_CALLS_TRIED: Final = """
select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('attempt', attempt, 'model', provider || ':' || model, 'state', state,
           'failure_class', failure_class, 'failure', failure, 'cost_usd', cost_usd::text, 'worker', worker,
           'started_at', started_at, 'finished_at', finished_at)) order by attempt)
  from (select * from model_calls where run_id = $1 and step = $2 order by attempt desc limit 20) m"""
_EFFECTS_TRIED: Final = f"""
select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('tool', tool, 'key', key, 'state', state, 'attempts', attempts, 'reason', reason,
           'held_by', run_id || ':' || step, 'worker', worker, 'started_at', started_at, 'finished_at', finished_at)) order by started_at)
  from effects where (run_id = $1 and step = $2) or (tenant = $5 and {_UNKNOWN_OF_STEP})"""  # noqa: S608 - our own text
_FILE: Final = f"""
insert into dead_letters (run_id, step, call_id, model_step, tenant, letter, agent, agent_version, definition_hash, model, user_id,
                          failure_class, cause, chain, what, tool, parked_at, limits, input, tried)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
       coalesce(({_CALL}), ({_MESSAGES})), coalesce(({_CALLS_TRIED}), ({_EFFECTS_TRIED}), '[]')
 where exists (select from runs where run_id = $1)
on conflict do nothing
returning true"""  # noqa: S608 - our own text
"""One round trip, whatever it gathers: a provider's outage files thousands."""


async def file(connection: Connection, request: RecordRequest, filed: Filed) -> bool:
    """File a parked step with its input and what was tried; False when it is filed already, or when its run is gone.

    Belongs into the transaction in which the run's record is written.
    """
    parked, agent = filed.parked, request.agent
    new = await connection.fetchval(
        _FILE,
        request.run_id,
        parked.step,
        filed.call_id,
        filed.model_step,
        request.tenant,
        parked.letter,
        agent.name,
        agent.version,
        agent.definition_hash,
        agent.model,
        request.user,
        parked.failure_class.value,
        _stored(parked.cause),
        [_stored(each) for each in parked.chain],
        parked.what,
        next((parked.what.removeprefix(kind) for kind in _TOOLS if parked.what.startswith(kind)), None),
        filed.at,
        agent.limits.model_dump(mode="json"),
        ARGUMENTS_SHOWN,
    )
    return bool(new)


async def settle(connection: Connection, request: RecordRequest, note: Note) -> int:
    """Enter what an order has settled, and, of an effect of unknown outcome, what a person has found out; how many letters that were.

    A note of anything else, and one that was entered before, changes nothing.
    """
    if note.order != names.REDRIVE or not note.closes:
        return 0
    settled = await connection.fetch(
        "update dead_letters set state = $4, settled_at = $5, settled_by = $6, reason = $7, result = $8, note = $9 "
        "where run_id = $1 and state = 'open' and (letter = $2 or ($2::integer is null and step = $3)) returning step, failure_class",
        request.run_id,
        note.letter,
        note.step,
        _STATE_AFTER.get(note.action, "redriven"),
        note.at,
        note.by,
        _stored(note.reason),
        _stored(note.result),
        note.number,
    )
    if note.action in ("skip", "not_done"):
        for row in settled:
            if row["failure_class"] in (FailureClass.UNKNOWN_OUTCOME, FailureClass.TOOL):
                about = (request.tenant, request.run_id, int(row["step"]))
                await _rule(connection, about, action=note.action, by=note.by, reason=note.reason, result=note.result)
    return len(settled)


async def settle_by_hand(connection: Connection, letter: DeadLetter, *, action: str, by: str, reason: str, result: str) -> bool:
    """Settle what is left of a run that has ended, without the run; False when it is settled already."""
    settled = await connection.fetchval(
        "update dead_letters set state = $3, settled_at = clock_timestamp(), settled_by = $4, reason = $5, result = $6 "
        "where run_id = $1 and letter = $2 and state = 'open' returning true",
        letter.run_id,
        letter.letter,
        _STATE_AFTER[action],
        _stored(by),
        _stored(reason),
        _stored(result),
    )
    if settled and action in ("skip", "not_done"):
        await _rule(connection, (letter.tenant, letter.run_id, letter.step), action=action, by=by, reason=reason, result=result)
    return bool(settled)


async def withdraw(connection: Connection, run_id: str, by: str, reason: str = "") -> int:
    """Close what a run has still open that has ended otherwise; how many letters that were.

    What was filed at its end, with a number below 0, stays open: an effect of unknown outcome is still to be found out.
    """
    tag = await connection.execute(
        "update dead_letters set state = 'withdrawn', settled_at = clock_timestamp(), settled_by = $2, reason = $3 "
        "where run_id = $1 and state = 'open' and letter >= 0",
        run_id,
        by,
        _stored(reason),
    )
    return int(tag.rpartition(" ")[2])


async def _rule(connection: Connection, about: tuple[str, str, int], *, action: str, by: str, reason: str, result: str) -> None:
    tenant, run_id, step = about
    ruling = "done" if action == "skip" else "not_done"
    told = transcripts.clean(Message(role=Role.TOOL, text=result or "A person says that it was done."))
    unknown = await connection.fetch(
        "select tool, key from effects where tenant = $3 and ((state = 'unknown' "  # noqa: S608 - our own text
        f"and ((run_id = $1 and step = $2) or {_UNKNOWN_OF_STEP})) "
        # An undo that could do nothing: who skips it has undone it by hand.
        "or (state = 'failed' and run_id = $1 and step = $2 and right(tool, 5) = '.undo'))",
        run_id,
        step,
        tenant,
    )
    for effect in unknown:
        await connection.fetchval(
            "select rule_effect($1, $2, $3, $4, $5, $6, $7)",
            tenant,
            effect["tool"],
            effect["key"],
            ruling,
            by,
            _stored(reason),
            transcripts.as_json(told) if ruling == "done" else None,
        )


def _stored(text: str) -> str:
    return redact(transcripts.storable(text))
