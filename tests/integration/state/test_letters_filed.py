"""Dead letters: filed once with input and what was tried, settled once, found by what they are, told of while they are old."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from state import dead_letter_lists, dead_letters, effects, model_calls, runs, transcripts
from state.dead_letter_lists import DeadLetter, LetterFilter
from state.effects import Claim
from state.pool import Database
from state.runs import NewRun
from tests.integration.state import ledger
from workflows.contracts.agents import AgentDefinition, Effect, PinnedAgent, ToolSpec
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Message, Role, ToolCall
from workflows.contracts.people import Filed, Note, RecordRequest
from workflows.contracts.runs import Parked
from workflows.contracts.steps import ToolRunRequest

PAY = ToolSpec(name="pay", description="Pays.", parameters={"type": "object"}, effect=Effect.ONCE)
ARGUMENTS = '{"order_id": "K1", "amount_usd": "80"}'


def agent(name: str = "desk", model: str = "openai:gpt-5") -> PinnedAgent:
    return AgentDefinition(name=name, instructions="Help.", model=model).pin()


def record(run_id: str, tenant: str = "default", **fields: Any) -> RecordRequest:
    return RecordRequest(run_id=run_id, tenant=tenant, agent=fields.pop("agent", agent()), **fields)


def filed(letter: int = 1, step: int = 2, **fields: Any) -> Filed:
    call = {name: fields.pop(name) for name in ("call_id", "model_step") if name in fields}
    at = fields.pop("at", datetime.now(UTC))
    given = {"failure_class": FailureClass.CALLER, "cause": "the key is wrong", "what": "call_model smart"} | fields
    return Filed(at=at, parked=Parked(step=step, letter=letter, **given), **call)


def note(number: int = 2, letter: int | None = 1, **fields: Any) -> Note:
    given = {"order": "redrive", "action": "retry", "by": "ann", "outcome": "accepted", "closes": True, "step": 2} | fields
    return Note(number=number, at=datetime.now(UTC), letter=letter, **given)


async def new_run(database: Database, *, tenant: str = "default") -> str:
    run_id = f"letters-{uuid.uuid4().hex[:12]}"
    new = NewRun(run_id, tenant, "desk", "hash", "ann", None, "body", 1)  # type: ignore[arg-type]
    await runs.create(database, new, Message(role=Role.USER, text="Pay K1, please."))
    return run_id


async def with_call(database: Database, *, tenant: str = "default") -> str:
    """A run whose first answer asks to pay."""
    run_id = await new_run(database, tenant=tenant)
    asked = Message(role=Role.ASSISTANT, text="I pay it.", tool_calls=(ToolCall(call_id="c1", name="pay", arguments=ARGUMENTS),))
    async with database.transaction() as connection:
        await transcripts.append(connection, run_id, 1, "desk", asked)
    return run_id


async def file(database: Database, request: RecordRequest, one: Filed) -> bool:
    async with database.transaction() as connection:
        return await dead_letters.file(connection, request, one)


async def settle(database: Database, request: RecordRequest, one: Note) -> int:
    async with database.transaction() as connection:
        return await dead_letters.settle(connection, request, one)


async def the_letter(database: Database, run_id: str, letter: int = 1) -> DeadLetter:
    found = await dead_letter_lists.get(database, run_id, letter)
    assert found is not None
    return found


async def test_a_tool_call_is_filed_once_with_its_arguments_and_its_effect(database: Database) -> None:
    run_id = await with_call(database)
    claim = await unknown_effect(database, run_id)
    request = record(run_id, user="ann")
    one = filed(
        call_id="c1",
        model_step=1,
        what="run_tool pay",
        failure_class=FailureClass.UNKNOWN_OUTCOME,
        cause="its worker ended",
        chain=("OSError: gone",),
    )

    assert [await file(database, request, one) for _ in range(3)] == [True, False, False]

    found = await the_letter(database, run_id)
    assert (found.id, found.step, found.tool, found.state, found.user_id) == (f"{run_id}:1", 2, "pay", "open", "ann")
    assert (found.failure_class, found.cause, list(found.chain)) == ("unknown_outcome", "its worker ended", ["OSError: gone"])
    assert (found.agent, found.model, found.definition_hash) == ("desk", "openai:gpt-5", agent().definition_hash)
    assert found.input == {"kind": "tool_call", "name": "pay", "arguments": ARGUMENTS, "version": 1, "cut": False}
    (tried,) = found.tried
    assert (tried["tool"], tried["state"], tried["attempts"], tried["held_by"]) == ("pay", "unknown", 1, f"{run_id}:2")
    assert tried["worker"] == claim.worker


async def test_a_model_call_is_filed_with_the_last_messages_and_its_attempts(database: Database) -> None:
    run_id = await with_call(database)
    begun = await ledger.begin(database, run_id, step=2)
    await model_calls.fail(database, begun.call_id, "caller", "the key is wrong")
    secret = "sk-proj-" + "Zx9Cv8Bn7Ml6" * 4

    await file(database, record(run_id), filed(cause=f"refused: {secret}"))

    found = await the_letter(database, run_id)
    assert "Zx9C" not in found.cause
    assert found.input == {
        "kind": "model_call",
        "messages": [
            {"step": 0, "role": "user", "head": "Pay K1, please."},
            {"step": 1, "role": "assistant", "head": "I pay it.", "calls": ["pay"]},
        ],
    }
    (tried,) = found.tried
    assert (tried["attempt"], tried["state"], tried["failure_class"]) == (1, "failed", "caller")
    of_tried = [
        await dead_letter_lists.count(database, LetterFilter(run_id=run_id, model=model))
        for model in ("openai:gpt-5-mini", "gpt-5-mini", "gpt-4")
    ]
    assert of_tried == [1, 1, 0]


async def test_a_letter_of_a_run_that_is_gone_is_not_filed_and_breaks_nothing(database: Database) -> None:
    assert not await file(database, record("letters-of-nobody"), filed())


@pytest.mark.parametrize(("action", "state"), [("retry", "redriven"), ("skip", "skipped"), ("not_done", "skipped"), ("abort", "aborted")])
async def test_an_order_settles_its_letter_once_and_no_other(database: Database, action: str, state: str) -> None:
    run_id = await new_run(database)
    request = record(run_id)
    for letter in (1, 2):
        await file(database, request, filed(letter, step=letter + 1))

    assert await settle(database, request, note(3, action=action, result="R", reason="looked")) == 1
    assert await settle(database, request, note(3, action=action)) == 0
    assert await settle(database, request, note(4, action="abort", by="bob")) == 0

    first, second = await the_letter(database, run_id), await the_letter(database, run_id, 2)
    assert (first.state, first.settled_by, first.reason, first.result) == (state, "ann", "looked", "R")
    assert second.state == "open"
    assert await settle(database, request, note(5, letter=None, step=3, action=action)) == 1
    assert (await the_letter(database, run_id, 2)).state == state


@pytest.mark.parametrize("fields", [{"closes": False}, {"order": "approve"}, {"outcome": "refused", "closes": False}])
async def test_a_note_of_anything_else_settles_nothing(database: Database, fields: dict[str, Any]) -> None:
    run_id = await new_run(database)
    await file(database, record(run_id), filed())
    assert await settle(database, record(run_id), note(**fields)) == 0
    assert (await the_letter(database, run_id)).state == "open"


async def unknown_effect(database: Database, run_id: str) -> Claim:
    call = ToolRunRequest(run_id=run_id, step=2, model_step=1, call_id="c1", name="pay", agent=agent(), tenant="default")
    claim = Claim(call, PAY, uuid.uuid4().hex, "w1")
    begun = await effects.begin(database, claim)
    assert begun.outcome == "go"
    await effects.leave_unknown(database, claim, begun.key, "its worker ended")
    return claim


@pytest.mark.parametrize(("action", "state"), [("skip", "succeeded"), ("not_done", "failed"), ("retry", "unknown")])
async def test_what_a_person_found_out_of_an_effect_is_entered_in_its_ledger(database: Database, action: str, state: str) -> None:
    run_id = await with_call(database)
    await unknown_effect(database, run_id)
    unknown = filed(call_id="c1", model_step=1, what="run_tool pay", failure_class=FailureClass.UNKNOWN_OUTCOME)
    await file(database, record(run_id), unknown)

    await settle(database, record(run_id), note(action=action, result="paid, says the bank", by="ann", reason="asked the bank"))

    (effect,) = await effects.of_run(database, run_id)
    assert effect.state == state
    rulings = await database.fetch("select ruling, ruled_by, reason from effect_rulings where key = $1", effect.key)
    told = {"skip": "done", "not_done": "not_done"}.get(action)
    assert [tuple(row) for row in rulings] == ([(told, "ann", "asked the bank")] if told else [])
    if action == "skip":
        text = await database.fetchval("select message->>'text' from effects where tenant = 'default' and key = $1", effect.key)
        assert text == "paid, says the bank"


async def test_what_a_run_leaves_open_is_withdrawn(database: Database) -> None:
    run_id = await new_run(database)
    await file(database, record(run_id), filed())
    async with database.transaction() as connection:
        assert await dead_letters.withdraw(connection, run_id, "ann", "it was stopped") == 1
        assert await dead_letters.withdraw(connection, run_id, "bob") == 0
    found = await the_letter(database, run_id)
    assert (found.state, found.settled_by, found.reason) == ("withdrawn", "ann", "it was stopped")


async def test_letters_are_found_by_what_they_are(database: Database) -> None:
    tenant = uuid.uuid4().hex
    one, two = await new_run(database, tenant=tenant), await with_call(database, tenant=tenant)
    await file(database, record(one, tenant, user="ann"), filed(1, cause="The key is WRONG", chain=("OSError: no route",)))
    quota = filed(1, failure_class=FailureClass.QUOTA, cause="nothing left", what="run_tool pay", call_id="c1", model_step=1)
    await file(database, record(two, tenant, user="bob", agent=agent("clerk", "fast")), quota)

    async def found(**fields: Any) -> list[str]:
        wanted = LetterFilter(tenant=tenant, **fields)
        letters = await dead_letter_lists.find(database, wanted, limit=10)
        assert await dead_letter_lists.count(database, wanted) == len(letters)
        return [letter.run_id for letter in letters]

    assert await found() == [one, two]
    assert await found(failure_class="quota") == await found(tool="pay") == await found(agent="clerk") == await found(user="bob") == [two]
    assert await found(model="openai:gpt-5") == await found(model="gpt-5") == [one]
    assert await found(model="fast") == [two]
    assert await found(text="key is wrong") == await found(text="NO ROUTE") == [one]
    assert await found(text="100%") == []
    assert await found(younger_than_s=60) == [one, two]
    assert await found(older_than_s=60) == []
    assert await found(state="redriven") == []
    await settle(database, record(two, tenant), note(letter=1))
    assert await found(state=None) == [one, two]
    assert await found(state="redriven") == [two]


async def test_pages_tell_every_letter_once(database: Database) -> None:
    tenant, run_id = uuid.uuid4().hex, await new_run(database)
    at = datetime.now(UTC)
    for letter in range(1, 8):
        await file(database, record(run_id, tenant), filed(letter, at=at))
    seen: list[int] = []
    last: DeadLetter | None = None
    while page := await dead_letter_lists.find(database, LetterFilter(tenant=tenant), limit=3, after=last):
        seen += [letter.letter for letter in page]
        last = page[-1]
    assert seen == list(range(1, 8))


async def test_an_old_letter_is_taken_once_by_one_of_many_workers(database: Database) -> None:
    run_id = await new_run(database)
    await file(database, record(run_id), filed(at=datetime(2000, 1, 1, tzinfo=UTC)))
    await file(database, record(run_id), filed(2))

    async def take(again_after_s: float) -> list[int]:
        taken = await dead_letter_lists.take_old(database, older_than_s=86_400, again_after_s=again_after_s, limit=100)
        return [letter.letter for letter in taken if letter.run_id == run_id]

    assert sorted(await asyncio.gather(*(take(86_400) for _ in range(5)))) == [[], [], [], [], [1]]
    assert await take(0) == [1]
    await settle(database, record(run_id), note(letter=1))
    assert await take(0) == []
