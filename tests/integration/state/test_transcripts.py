"""The conversation of a run: written once a step, without secrets, whole in the blob store when large, summarised when long."""

from __future__ import annotations

import pytest

from state import blobs, memories, transcripts
from state.blobs import BlobMissingError
from state.pool import Database
from tests.integration.state.ledger import begin, new_id, new_run
from workflows.contracts.messages import Message, Role, ToolCall
from workflows.contracts.runs import TOOL_RESULT_LIMIT_BYTES

KEY = "sk-ant-api03-" + "Ab3dE5gH7jK9" * 4


def said(text: str, role: Role = Role.ASSISTANT, **fields: object) -> Message:
    return Message.model_validate({"role": role, "text": text} | fields)


async def append(database: Database, run_id: str, step: int, message: Message, part: int = 0) -> None:
    async with database.transaction() as connection:
        await transcripts.append(connection, run_id, step, "support", message, part=part)


async def summarise(database: Database, run_id: str, step: int, text: str) -> None:
    row = transcripts.row(step, said(text, Role.USER), summary_through=step - 1)
    await database.execute(
        "insert into transcript (run_id, step, agent, message, tokens, summary_through) values ($1, $2, 'support', $3, $4, $5)",
        run_id,
        step,
        row["message"],
        row["tokens"],
        row["summary_through"],
    )


async def shown(database: Database, run_id: str, step: int) -> list[str]:
    """What a model is shown at a step."""
    return [message.text for message in (await begin(database, run_id, step)).messages]


async def test_a_row_that_is_there_stays_as_it_is(database: Database) -> None:
    run_id = await new_run(database)
    await append(database, run_id, 1, said("first"))
    await append(database, run_id, 1, said("second"))
    await append(database, run_id, 1, said("a hint", Role.USER), part=1)
    entries = await transcripts.entries(database, run_id, after_step=0)
    assert [(entry.step, entry.part, entry.message.text) for entry in entries] == [(1, 0, "first"), (1, 1, "a hint")]
    assert await transcripts.message_at(database, run_id, 1, part=1) == said("a hint", Role.USER)
    assert await transcripts.message_at(database, run_id, 9) is None


async def test_a_message_comes_back_as_it_went_in(database: Database) -> None:
    run_id = await new_run(database)
    calls = (ToolCall(call_id="c1", name="find", arguments='{"q": "ä 漢 🦊"}'), ToolCall(call_id="c2", name="find", arguments="no JSON {"))
    message = said("Grüße 漢字 🦊 \\ \" ' \t\n", tool_calls=calls)
    await append(database, run_id, 1, message)
    assert await transcripts.message_at(database, run_id, 1) == message
    error = said("it failed", Role.TOOL, call_id="c1", is_error=True)
    await append(database, run_id, 2, error)
    assert await transcripts.message_at(database, run_id, 2) == error


async def test_secrets_and_zero_bytes_are_not_kept(database: Database) -> None:
    run_id = await new_run(database, text=f"my key is {KEY}\x00")
    calls = (ToolCall(call_id="c1", name="log_in", arguments=f'{{"key": "{KEY}", "zero": "a\\u0000b"}}'),)
    await append(database, run_id, 1, said(f"\x00{KEY}", tool_calls=calls))
    kept = await database.fetch("select message::text from transcript where run_id = $1", run_id)
    assert len(kept) == 2
    for row in kept:
        assert KEY not in row["message"]
        assert "[redacted" in row["message"]


async def test_a_large_tool_result_is_whole_in_the_blob_store_and_cut_for_the_model(database: Database) -> None:
    run_id = await new_run(database)
    whole = "ä" * TOOL_RESULT_LIMIT_BYTES
    await append(database, run_id, 1, said(whole, Role.TOOL, call_id="c1"))
    (entry,) = await transcripts.entries(database, run_id, after_step=0)
    assert entry.blob_id is not None
    assert (await blobs.get(database, entry.blob_id)).decode() == whole
    head, _, notice = entry.message.text.partition("\n")
    assert head == "ä" * (TOOL_RESULT_LIMIT_BYTES // 2)
    assert (
        notice
        == f"[cut here: the whole result has {2 * TOOL_RESULT_LIMIT_BYTES} bytes, a model is shown the first {TOOL_RESULT_LIMIT_BYTES}]"
    )


async def test_the_same_body_is_kept_once_and_a_missing_one_is_named(database: Database) -> None:
    body = new_id().encode()
    assert await blobs.put(database, body) == await blobs.put(database, body)
    with pytest.raises(BlobMissingError, match="Blob nothing is not in the store"):
        await blobs.get(database, "nothing")


async def test_a_model_is_shown_what_came_before_its_step(database: Database) -> None:
    run_id = await new_run(database, text="the request")
    for step in (1, 2, 3):
        await append(database, run_id, step, said(f"step {step}"))
    assert await shown(database, run_id, 3) == ["the request", "step 1", "step 2"]


async def test_a_summary_stands_for_all_before_it_except_the_request(database: Database) -> None:
    run_id = await new_run(database, text="the request")
    await append(database, run_id, 0, said("a memory", Role.USER), part=-1)
    for step in (1, 2):
        await append(database, run_id, step, said(f"step {step}"))
    await summarise(database, run_id, 3, "summary of 1 and 2")
    await append(database, run_id, 4, said("step 4"))
    await append(database, run_id, 4, said("a hint on step 4", Role.USER), part=1)
    assert await shown(database, run_id, 5) == ["a memory", "the request", "summary of 1 and 2", "step 4", "a hint on step 4"]

    await summarise(database, run_id, 6, "summary of all")
    await append(database, run_id, 7, said("step 7"))
    assert await shown(database, run_id, 8) == ["a memory", "the request", "summary of all", "step 7"]
    assert len(await transcripts.entries(database, run_id)) == 9, "nothing is deleted"


async def test_memories_are_put_before_the_conversation_once_newest_last(database: Database) -> None:
    owner = new_id("owner")
    for text in ("oldest", "older", f"newest, key {KEY}"):
        await memories.keep(database, tenant="t", scope="user", owner=owner, run_id=await new_run(database), text=text)
    run_id = await new_run(database, text="the request")
    await memories.keep(database, tenant="t", scope="user", owner=owner, run_id=run_id, text="its own")
    await memories.keep(database, tenant="t", scope="user", owner="somebody else", run_id=new_id(), text="a stranger's")
    for _ in range(2):
        count = await memories.recall(database, tenant="t", scope="user", owner=owner, run_id=run_id, agent="support", limit=2)
        assert count == 2
    memory, request = await shown(database, run_id, 1)
    assert memory.startswith("What you remember from earlier:\n\nolder\n\nnewest, key [redacted")
    assert request == "the request"


async def test_a_run_remembers_once(database: Database) -> None:
    owner, run_id = new_id("owner"), await new_run(database)
    for text in ("first", "second"):
        await memories.keep(database, tenant="t", scope="user", owner=owner, run_id=run_id, text=text)
    kept = await database.fetch("select text from memories where run_id = $1", run_id)
    assert [row["text"] for row in kept] == ["first"]
    assert await memories.recall(database, tenant="t", scope="user", owner="nobody", run_id=run_id, agent="a", limit=5) == 0
