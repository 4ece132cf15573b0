"""Undoing effects: each undo is an effect of its own, `once`, of the tool NAME.undo under the effect's key.

Why it is as it is: docs/adr/0018-undo-and-hooks.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from state import transcripts
from state.effect_claims import Claim
from state.effects import State
from state.pool import Database
from workflows.contracts.messages import Message, Role
from workflows.contracts.people import Undoable
from workflows.contracts.redaction import redact

SUFFIX = ".undo"
"""No tool's own name has a dot."""


@dataclass(frozen=True, slots=True)
class Undoing:
    """What the ledger allows: `go`, `done`, `gone`, `busy` or `unknown`."""

    outcome: str
    arguments: str = ""
    """What the effect was done with, as JSON."""
    message: Message | None = None
    """The effect's result; of an effect that was undone already, what undoing it gave."""
    blob_id: str | None = None
    generation: int = 1
    attempts: int = 0
    holder_run: str = ""
    holder_step: int = 0
    reason: str = ""
    wait_s: float = 0.0


async def find(database: Database, *, run_id: str, tenant: str) -> list[Undoable]:
    """The effects that a run and its sub-runs did themselves and that can be undone, last finished first.

    Those of a run that it is a rebirth of are its own; results that it was given from other runs' effects are not.
    """
    rows = await database.fetch(_FIND, run_id, tenant)
    return [
        Undoable(
            step=row["step"],
            call_id=row["call_id"] or "",
            tool=row["tool"],
            key=row["key"],
            timeout_s=row["undo_timeout_s"],
            doing=row["attempts"],
        )
        for row in rows
    ]


_FIND = """
with recursive origin as (select coalesce(effects_run, run_id) as run_id from runs where run_id = $1),
mine (run_id) as (
    select r.run_id from runs r join origin o on r.run_id = o.run_id or r.effects_run = o.run_id
    union
    select c.run_id from runs c join mine m on c.parent_run_id = m.run_id
)
select e.step, e.call_id, e.tool, e.key, e.undo_timeout_s, e.attempts
  from mine m join effects e on e.run_id = m.run_id
 where e.tenant = $2 and e.state in ('succeeded', 'undoing') and e.undo_timeout_s is not null
 order by e.finished_at desc, e.step desc
"""


async def begin(database: Database, claim: Claim, effect: Undoable) -> Undoing:
    """Enter the start of an undo, in one round trip; until its end nobody is given the effect's result.

    The same claim may begin again when it does not know whether its first begin arrived.
    """
    request = claim.request
    found = await database.fetchrow(
        "select * from begin_undo($1,$2,$3,$4,$5,$6,$7,$8,$9,$10)",
        request.run_id,
        effect.step,
        request.tenant,
        effect.tool,
        effect.key,
        effect.doing,
        claim.token,
        request.rulings,
        claim.worker,
        claim.lease_s,
    )
    if found is None:  # pragma: no cover - the function always gives a row
        raise LookupError("begin_undo gave no row")
    return Undoing(
        outcome=found["outcome"],
        arguments=found["arguments"] or "",
        message=None if found["message"] is None else transcripts.parse(found["message"]),
        blob_id=found["blob_id"],
        generation=found["generation"],
        attempts=found["attempts"],
        holder_run=found["holder_run"] or "",
        holder_step=found["holder_step"] or 0,
        reason=found["reason"] or "",
        wait_s=found["wait_s"] or 0.0,
    )


async def finish(database: Database, claim: Claim, effect: Undoable, state: State, text: str) -> bool:
    """Enter what came of it: `succeeded` makes the effect undone, `failed` leaves it standing, with the text as the reason.

    False: another attempt has taken the undo over.
    """
    message = transcripts.clean(Message(role=Role.TOOL, text=transcripts.shown_to_model(transcripts.storable(text))))
    ended = await database.fetchval(
        "select finish_undo($1,$2,$3,$4,$5,$6,$7)",
        claim.request.tenant,
        effect.tool,
        effect.key,
        claim.token,
        state,
        redact(text[:1_000]) if state == "failed" else None,
        transcripts.as_json(message) if state == "succeeded" else None,
    )
    return bool(ended)
