"""What is written when a run ends otherwise than by its model's answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from state import transcripts
from state.pool import Connection
from workflows.contracts.messages import Message, Role


@dataclass(frozen=True, slots=True)
class UnknownEffect:
    """An effect of which nobody knows whether it was done."""

    tool: str
    key: str
    step: int
    started_at: datetime


async def write_answer(connection: Connection, run_id: str, step: int, agent: str, answer: str) -> None:
    """Write a person's answer where the model's would stand; the first one stays."""
    await transcripts.append(connection, run_id, step, agent, Message(role=Role.ASSISTANT, text=answer))


async def settle_dead_holders(connection: Connection, run_id: str, *, take_all: bool = False) -> bool:
    """Take effects of the run as unknown that nobody works at any more; whether some are still at work. With `take_all` every one is."""
    await connection.execute(
        "update effects set state = 'unknown', reason = coalesce(reason, 'the run ended before the tool did') "
        "where run_id = $1 and state = 'started' and effect = 'once' and ($2 or lease_until < clock_timestamp())",
        run_id,
        take_all,
    )
    left: bool = await connection.fetchval(
        "select exists (select from effects where run_id = $1 and state = 'started' and effect = 'once')", run_id
    )
    return left


async def unknown_effects(connection: Connection, run_id: str) -> list[UnknownEffect]:
    """The run's effects of unknown outcome, in order."""
    rows = await connection.fetch(
        "select tool, key, step, started_at from effects where run_id = $1 and state = 'unknown' order by step", run_id
    )
    return [UnknownEffect(**dict(row)) for row in rows]
