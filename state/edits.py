"""Arguments, and inputs, that people gave in place of a model's or a caller's: each a version of its own."""

from __future__ import annotations

from typing import Final

from state import transcripts
from state.pool import Connection, Database
from workflows.contracts.errors import UnknownRunError
from workflows.contracts.messages import Message
from workflows.contracts.people import EditRequest
from workflows.contracts.redaction import redact

INPUT_STEP: Final = 0


async def lock(connection: Connection, run_id: str) -> None:
    """Let what is written of one run's people happen one after the other, until the transaction ends."""
    await connection.execute("select pg_advisory_xact_lock(hashtextextended('people:' || $1, 0))", run_id)


_EDIT: Final = """
insert into edited_arguments (run_id, step, call_id, version, arguments, by, note)
select r.run_id, $2, $3, 1 + coalesce((select max(version) from edited_arguments where run_id = $1 and step = $2), 1), $4, $5, $6
  from runs r where r.run_id = $1
on conflict (run_id, step, note) do update set note = excluded.note
returning version, arguments
"""


async def keep(database: Database, request: EditRequest, text: str) -> int:
    """Keep arguments, or another input, as a new version and show it in the inbox; its number. The same order twice is one version.

    Raises:
        UnknownRunError: the run is not in this database.
    """
    cleaned = redact(transcripts.storable(text))
    async with database.transaction() as connection:
        await lock(connection, request.run_id)
        step = INPUT_STEP if request.kind == "input" else request.step
        found = await connection.fetchrow(
            _EDIT, request.run_id, step, request.call_id, cleaned, redact(transcripts.storable(request.by)), request.note
        )
        if found is None:
            raise UnknownRunError(f"Run {request.run_id} is not in this database: is DATABASE_URL the one it was started with?")
        version: int = found["version"]
        if request.kind == "input":
            await _replace_input(connection, request.run_id, found["arguments"])
        else:
            await _show(connection, request.run_id, step, found["arguments"], version)
    return version


_NEWEST: Final = """
select coalesce(e.version, 1) as version, coalesce(e.arguments, (
           select c->>'arguments' from transcript t, jsonb_array_elements(t.message->'tool_calls') c
            where t.run_id = $1 and t.step < $2 and t.part = 0 and c->>'call_id' = $3 order by t.step desc limit 1)) as arguments
  from (select 1) one
  left join lateral (select version, arguments from edited_arguments where run_id = $1 and step = $2
                      order by version desc limit 1) e on true
"""


async def take_back(connection: Connection, run_id: str, note: int) -> None:
    """Let what an order brought not count, since the order was not carried out after all: it came too late, or another part was wrong."""
    for row in await connection.fetch(
        "delete from edited_arguments where run_id = $1 and note = $2 and version > 1 returning step, call_id", run_id, note
    ):
        before = await connection.fetchrow(_NEWEST, run_id, row["step"], row["call_id"])
        if before is None or before["arguments"] is None:
            continue
        if row["step"] == INPUT_STEP:
            await _write_input(connection, run_id, before["arguments"])
        else:
            await _show(connection, run_id, row["step"], before["arguments"], before["version"])


async def _show(connection: Connection, run_id: str, step: int, arguments: str, version: int) -> None:
    await connection.execute(
        "update questions set arguments = $3, version = $4 where run_id = $1 and step = $2 and state = 'open'",
        run_id,
        step,
        arguments,
        version,
    )


async def _replace_input(connection: Connection, run_id: str, text: str) -> None:
    """Put another first message in place of the run's own, which is kept as version 1."""
    await connection.execute(
        "insert into edited_arguments (run_id, step, call_id, version, arguments, by, note) "
        "select run_id, step, '', 1, message->>'text', 'the caller', 0 from transcript where run_id = $1 and step = 0 and part = 0 "
        "on conflict do nothing",
        run_id,
    )
    await _write_input(connection, run_id, text)


async def _write_input(connection: Connection, run_id: str, text: str) -> None:
    old = await connection.fetchval("select message from transcript where run_id = $1 and step = 0 and part = 0 for update", run_id)
    if old is None:
        return
    message: Message = transcripts.parse(old)
    changed = message.model_copy(update={"text": text})
    await connection.execute(
        "update transcript set message = $2, tokens = $3 where run_id = $1 and step = 0 and part = 0",
        run_id,
        transcripts.as_json(changed),
        transcripts.estimate_tokens(changed),
    )


async def as_written(database: Database, run_id: str, model_step: int, call_id: str) -> str | None:
    """The arguments of a call as the model wrote them, or None."""
    found: str | None = await database.fetchval(
        "select c->>'arguments' from transcript t, jsonb_array_elements(t.message->'tool_calls') c "
        "where t.run_id = $1 and t.step = $2 and t.part = 0 and c->>'call_id' = $3",
        run_id,
        model_step,
        call_id,
    )
    return found
