"""What agents keep between runs, newest first."""

from __future__ import annotations

from state import transcripts
from state.pool import Database
from workflows.contracts.messages import Message, Role
from workflows.contracts.redaction import redact


async def keep(database: Database, *, tenant: str, scope: str, owner: str, run_id: str, text: str) -> None:
    """Write one memory of a run; a second one of the same run, or of one that it was reborn from, changes nothing."""
    await database.execute(
        "insert into memories (tenant, scope, owner, run_id, text) select $1, $2, $3, $4, $5 where not exists ("
        "select from runs r join runs life on r.effects_run in (life.run_id, life.effects_run) join memories m on m.run_id = life.run_id "
        "where r.run_id = $4) on conflict (run_id) do nothing",
        tenant,
        scope,
        owner,
        run_id,
        redact(text),
    )


async def recall(database: Database, *, tenant: str, scope: str, owner: str, run_id: str, agent: str, limit: int) -> int:
    """Put the newest memories before the run's conversation, once; returns how many."""
    rows = await database.fetch(
        "select text from memories where tenant = $1 and scope = $2 and owner = $3 and run_id <> $4 order by memory_id desc limit $5",
        tenant,
        scope,
        owner,
        run_id,
        limit,
    )
    if not rows:
        return 0
    text = "What you remember from earlier:\n\n" + "\n\n".join(row["text"] for row in reversed(rows))
    async with database.transaction() as connection:
        await transcripts.append(connection, run_id, 0, agent, Message(role=Role.USER, text=text), part=-1)
    return len(rows)
