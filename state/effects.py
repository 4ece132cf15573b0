"""The effect ledger: started before, succeeded or failed after, unknown when a crash came between; one row a key.

Why it is as it is: docs/adr/0004-effect-ledger.md. Undoing what was done is in `undoing.py`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from state import transcripts
from state.effect_claims import LEASE_S, Begun, Claim, Ended
from state.pool import Connection, Database
from workflows.contracts.messages import Message, Role
from workflows.contracts.redaction import redact
from workflows.contracts.runs import TOOL_RESULT_LIMIT_BYTES
from workflows.contracts.steps import AskedByHook

__all__ = [
    "LEASE_S",
    "RENEW_EVERY_S",
    "Begun",
    "Claim",
    "Effect",
    "Ended",
    "Ruling",
    "State",
    "begin",
    "finish",
    "give_back",
    "leave_unknown",
    "of_run",
    "renew",
    "result_bytes",
    "rule",
    "rule_step",
    "unknown",
]

RENEW_EVERY_S = 2.0
State = Literal["succeeded", "failed"]
Ruling = Literal["done", "not_done"]


@dataclass(frozen=True, slots=True)
class Effect:
    """One row of the ledger."""

    tenant: str
    tool: str
    key: str
    effect: str
    state: str
    run_id: str
    step: int
    attempts: int
    reason: str | None
    worker: str
    started_at: datetime
    finished_at: datetime | None
    arguments: str | None
    generation: int
    undo_timeout_s: float | None


async def begin(
    database: Database,
    claim: Claim,
    *,
    key: str | None = None,
    release_key: str | None = None,
    checked: int | None = None,
    look: bool = False,
) -> Begun:
    """Read the call's arguments and enter `started`, in one round trip; a pure tool enters nothing.

    Args:
        database: where.
        claim: whose attempt. The same claim may begin again when it does not know whether its first begin arrived.
        key: the effect's key, when it is not what the raw arguments say.
        release_key: a key that this claim began under by mistake and did nothing under.
        checked: the number of attempts that the tool's own check has found undone.
        look: enter nothing as long as nothing of this step has begun with these arguments: hooks are to be asked first.
    """
    request, spec = claim.request, claim.spec
    found = await database.fetchrow(
        "select * from begin_tool($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18)",
        request.run_id,
        request.step,
        request.model_step,
        request.call_id,
        request.tenant,
        spec.name,
        spec.effect.value,
        spec.key,
        key,
        release_key,
        claim.token,
        request.rulings,
        checked,
        claim.worker,
        claim.lease_s,
        claim.undo_timeout_s,
        look,
        claim.hold,
    )
    if found is None:  # pragma: no cover - the function always gives a row
        raise LookupError("begin_tool gave no row")
    return Begun(
        outcome=found["outcome"],
        key=found["key"],
        attempts=found["attempts"],
        arguments=found["arguments"] or "",
        edited=found["edited"],
        by_step=found["by_step"],
        generation=found["generation"],
        message=None if found["message"] is None else transcripts.parse(found["message"]),
        blob_id=found["blob_id"],
        holder_run=found["holder_run"] or "",
        holder_step=found["holder_step"] or 0,
        arguments_hash=found["arguments_hash"],
        reason=found["reason"] or "",
        undoing=found["undoing"],
        held=found["held"],
        ask=_asked(found["ask"]),
        wait_s=found["wait_s"] or 0.0,
    )


def _asked(stored: Any) -> AskedByHook | None:
    return None if stored is None else AskedByHook.model_validate(stored)


async def finish(
    database: Database,
    claim: Claim,
    key: str,
    *,
    state: State | None,
    text: str,
    is_error: bool,
    reason: str | None = None,
    arguments_hash: str | None = None,
    blob_id: str | None = None,
    note: str = "",
) -> Ended | None:
    """Enter the outcome and write the step's row of the transcript, in one round trip; gives the row that stands there.

    A text over the limit goes to the blob store whole; the model is shown its head. With a `blob_id` the text is such a head
    already. Without a state (a pure tool, a reused result) the ledger is left alone. `note` stands before the text for this run's model
    only. None: this attempt has failed, and another one that has taken the effect over still runs for the same step.
    """
    request = claim.request
    cleaned = transcripts.clean(Message(role=Role.TOOL, call_id=request.call_id, text=text, is_error=is_error))
    body = cleaned.text.encode(errors="replace")
    large = blob_id is None and len(body) > TOOL_RESULT_LIMIT_BYTES
    shown = cleaned.model_copy(update={"text": transcripts.shown_to_model(cleaned.text)}) if large else cleaned
    noted = cleaned.model_copy(update={"text": note + shown.text}) if note else shown
    found = await database.fetchrow(
        "select * from finish_tool($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16)",
        request.run_id,
        request.step,
        request.agent.name,
        request.tenant,
        claim.spec.name,
        key,
        claim.token,
        state,
        redact(reason) if reason else None,
        arguments_hash,
        transcripts.as_json(shown),
        transcripts.estimate_tokens(noted),
        hashlib.sha256(body).hexdigest() if large else blob_id,
        body if large else None,
        transcripts.storable(note) or None,
        claim.hold and not is_error,
    )
    if found is None:  # pragma: no cover - the function always gives a row
        raise LookupError("finish_tool gave no row")
    if found["message"] is None:
        return None
    return Ended(transcripts.parse(found["message"]), found["blob_id"], found["recorded"], found["held"], _asked(found["ask"]))


async def leave_unknown(database: Database, claim: Claim, key: str, reason: str) -> None:
    """Enter that nobody knows whether this attempt did its work."""
    await database.execute(
        "update effects set state = 'unknown', reason = $5, "
        "questions = questions || jsonb_build_object(run_id || ':' || step, jsonb_build_array(attempts, $6::integer)) "
        "where tenant = $1 and tool = $2 and key = $3 and token = $4 and state = 'started'",
        claim.request.tenant,
        claim.spec.name,
        key,
        claim.token,
        redact(reason),
        claim.request.rulings,
    )


async def give_back(database: Database, claim: Claim, key: str) -> None:
    """Enter that this attempt ended before its tool was called: nothing was done."""
    await database.execute(
        "update effects set state = 'failed', reason = 'cancelled before it ran', finished_at = now() "
        "where tenant = $1 and tool = $2 and key = $3 and token = $4 and state = 'started'",
        claim.request.tenant,
        claim.spec.name,
        key,
        claim.token,
    )


async def will_invalidate(database: Database, claim: Claim, key: str, tags: tuple[str, ...]) -> None:
    """Enter, before the tool runs, which cached answers its effect makes old: they go in the transaction in which it ends."""
    await database.execute(
        "update effects set invalidates = $5 where tenant = $1 and tool = $2 and key = $3 and token = $4 and state = 'started'",
        claim.request.tenant,
        claim.spec.name,
        key,
        claim.token,
        list(tags),
    )


async def renew(database: Database, claim: Claim, key: str) -> bool:
    """Say that the holder lives; False when it holds the effect no longer."""
    tag = await database.execute(
        "update effects set lease_until = now() + make_interval(secs => $5) "
        "where tenant = $1 and tool = $2 and key = $3 and token = $4 and state = 'started'",
        claim.request.tenant,
        claim.spec.name,
        key,
        claim.token,
        claim.lease_s,
    )
    return tag != "UPDATE 0"


async def rule(
    database: Database | Connection, *, tenant: str, tool: str, key: str, ruling: Ruling, by: str, reason: str = "", result: str = "done"
) -> bool:
    """Enter what a person has found out of an effect of unknown outcome: `done` with its result, or `not_done`.

    Done effects are given as `result` to whoever asks next; undone ones may be run. Of an effect of which nobody knows whether it was
    undone, `done` says that it stands; of a tool NAME.undo it says that NAME was undone. Returns False when the effect is not unknown.
    """
    message = transcripts.clean(Message(role=Role.TOOL, text=result)) if ruling == "done" else None
    ruled = await database.fetchval(
        "select rule_effect($1,$2,$3,$4,$5,$6,$7)",
        tenant,
        tool,
        key,
        ruling,
        by,
        redact(reason),
        None if message is None else transcripts.as_json(message),
    )
    return bool(ruled)


async def rule_step(
    database: Database | Connection,
    *,
    tenant: str,
    run_id: str,
    step: int,
    ruling: Ruling,
    by: str,
    reason: str = "",
    result: str = "done",
) -> bool:
    """The same, for the effect of unknown outcome that a run's step is parked for; False when there is none."""
    found = await database.fetchrow(
        "select tool, key from effects where tenant = $1 and state in ('unknown', 'undoing') "
        "and ((state = 'unknown' and run_id = $2 and step = $3) or questions ? ($2 || ':' || $3::integer)) "
        "order by state = 'unknown' desc, run_id = $2 desc, started_at desc limit 1",
        tenant,
        run_id,
        step,
    )
    if found is None:
        return False
    return await rule(database, tenant=tenant, tool=found["tool"], key=found["key"], ruling=ruling, by=by, reason=reason, result=result)


async def of_run(database: Database, run_id: str) -> list[Effect]:
    """What a run's tools did, in order."""
    return await _select(database, "where run_id = $1 order by step", run_id)


async def unknown(database: Database, tenant: str) -> list[Effect]:
    """Every effect, and undoing of one, whose outcome a person must find out, oldest first."""
    return await _select(
        database, "where tenant = $1 and state in ('unknown', 'undoing') and state = 'unknown' order by started_at", tenant
    )


async def result_bytes(database: Database, message: Message, blob_id: str | None) -> int:
    """How large a result is, whole."""
    if blob_id is None:
        return len(message.text.encode(errors="replace"))
    size: int | None = await database.fetchval("select octet_length(body) from blobs where blob_id = $1", blob_id)
    return size or 0


async def _select(database: Database, where: str, *given: Any) -> list[Effect]:
    columns = ", ".join(Effect.__dataclass_fields__)
    rows = await database.fetch(f"select {columns} from effects {where}", *given)  # noqa: S608 - our own names and text
    return [Effect(**dict(row)) for row in rows]
