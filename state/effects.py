"""The effect ledger: started before, succeeded or failed after, unknown when a crash came between; one row a key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from state import transcripts
from state.pool import Database
from workflows.contracts.agents import ToolSpec
from workflows.contracts.messages import Message, Role
from workflows.contracts.redaction import redact
from workflows.contracts.runs import TOOL_RESULT_LIMIT_BYTES, ToolRunRequest

LEASE_S = 30.0
"""A holder that another run waits for is taken as dead when it has not renewed for this long."""
RENEW_EVERY_S = 8.0


@dataclass(frozen=True, slots=True)
class Begun:
    """What the ledger allows: `go`, `done`, `reused`, `busy`, `unknown`, or `no_call`."""

    outcome: str
    arguments: str
    key: str
    message: Message | None
    blob_id: str | None
    attempts: int


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


async def begin(database: Database, request: ToolRunRequest, spec: ToolSpec, *, again: bool, worker: str) -> Begun:
    """Read the call's arguments and enter `started`, in one round trip; a pure tool enters nothing.

    Args:
        database: where.
        request: the tool call.
        spec: the tool as the run's pinned definition has it.
        again: an effect of unknown outcome may be done again: a person, or the tool's own check, said so.
        worker: who does it, for people.
    """
    found = await database.fetchrow(
        "select * from begin_tool($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11)",
        request.run_id,
        request.step,
        request.model_step,
        request.call_id,
        request.tenant,
        spec.name,
        spec.effect.value,
        spec.key,
        again,
        worker,
        LEASE_S,
    )
    if found is None:  # pragma: no cover - the function always gives a row
        raise LookupError("begin_tool gave no row")
    message = None if found["message"] is None else transcripts.parse(found["message"])
    return Begun(found["outcome"], found["arguments"] or "", found["key"], message, found["blob_id"], found["attempts"])


async def finish(
    database: Database,
    request: ToolRunRequest,
    spec: ToolSpec,
    key: str,
    *,
    state: str,
    text: str,
    is_error: bool,
    reason: str | None = None,
) -> Message:
    """Enter the outcome and write the step's row of the transcript, in one round trip; gives the message that stands there.

    A text over the limit goes to the blob store whole; the model is shown its head.
    """
    cleaned = transcripts.clean(Message(role=Role.TOOL, call_id=request.call_id, text=text, is_error=is_error))
    body = cleaned.text.encode(errors="replace")
    large = len(body) > TOOL_RESULT_LIMIT_BYTES
    shown = cleaned.model_copy(update={"text": transcripts.shown_to_model(cleaned.text)}) if large else cleaned
    stored = await database.fetchval(
        "select finish_tool($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13)",
        request.run_id,
        request.step,
        request.agent.name,
        request.tenant,
        spec.name,
        spec.effect.value,
        key,
        state,
        redact(reason) if reason else None,
        transcripts.as_json(shown),
        transcripts.estimate_tokens(shown),
        hashlib.sha256(body).hexdigest() if large else None,
        body if large else None,
    )
    return transcripts.parse(stored)


async def unknown(database: Database, request: ToolRunRequest, spec: ToolSpec, key: str, reason: str) -> None:
    """Enter that nobody knows whether this attempt did its work."""
    await database.execute(
        "update effects set state = 'unknown', reason = $5 where tenant = $1 and tool = $2 and key = $3 and state = 'started' "
        "and run_id = $4 and step = $6",
        request.tenant,
        spec.name,
        key,
        request.run_id,
        redact(reason),
        request.step,
    )


async def renew(database: Database, request: ToolRunRequest, spec: ToolSpec, key: str) -> None:
    """Say that the holder lives."""
    await database.execute(
        "update effects set lease_until = now() + make_interval(secs => $6) "
        "where tenant = $1 and tool = $2 and key = $3 and run_id = $4 and step = $5 and state = 'started'",
        request.tenant,
        spec.name,
        key,
        request.run_id,
        request.step,
        LEASE_S,
    )


async def of_run(database: Database, run_id: str) -> list[Effect]:
    """What a run's tools did, in order."""
    columns = ", ".join(Effect.__dataclass_fields__)
    rows = await database.fetch(f"select {columns} from effects where run_id = $1 order by step", run_id)  # noqa: S608 - our own column names
    return [Effect(**dict(row)) for row in rows]
