"""Results of tools that hooks look at before the model may see them, and those that were withheld from it."""

from __future__ import annotations

from typing import Literal

from state import transcripts
from state.pool import Database
from workflows.contracts.messages import Message, Role
from workflows.contracts.redaction import redact
from workflows.contracts.steps import AskedByHook

HookSays = Literal["released", "asked", "withheld"]


async def settle(
    database: Database, run_id: str, step: int, says: HookSays, *, message: Message | None = None, ask: AskedByHook | None = None
) -> Message:
    """Enter what the hooks say of a held result; gives the step's message as the model is shown it. The first word stands.

    Args:
        database: where.
        run_id: whose result.
        step: of which step.
        says: `released` lets it pass; `asked` too, since the run waits for the person; `withheld` puts `message` in its place.
        message: what the model is told of a withheld result.
        ask: what a person is asked.
    """
    told = None if message is None else transcripts.as_json(transcripts.clean(message))
    stored = await database.fetchval(
        "select settle_result($1,$2,$3,$4,$5,$6,$7)",
        run_id,
        step,
        says,
        "a hook",
        redact(ask.reason if ask else message.text if message else ""),
        None if ask is None else ask.model_dump(mode="json"),
        told,
    )
    return transcripts.parse(stored)


async def withhold(database: Database, run_id: str, step: int, *, by: str, reason: str, text: str) -> bool:
    """Put `text` in place of a result, which is kept apart; False when it is withheld already, or there is none."""
    told = transcripts.clean(Message(role=Role.TOOL, text=text))
    done = await database.fetchval(
        "select withhold_result($1,$2,$3,$4,$5,$6)", run_id, step, by, redact(reason), told.text, transcripts.estimate_tokens(told)
    )
    return bool(done)
