"""Questions, edits and decisions in the database: each once, in whatever order they arrive, and the record for ever."""

from __future__ import annotations

import hashlib
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from state import edits, inbox, people, runs, transcripts
from state.inbox import Wanted
from state.people import Question
from state.pool import Database
from state.runs import NewRun
from workflows.contracts.agents import AgentDefinition, ApprovalPolicy
from workflows.contracts.errors import UnknownRunError
from workflows.contracts.messages import Message, Role, ToolCall
from workflows.contracts.people import AskRequest, EditRequest, Note, RecordRequest

AGENT = AgentDefinition(name="desk", instructions="Help.").pin()
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
ARGUMENTS = '{"amount_usd": 80}'
SECRET = "sk-ant-api03-" + "Ab3dE5gH7jK9" * 4


async def new_run(database: Database, user: str | None = "carl") -> str:
    """A run whose model has asked for one call, at step 1."""
    run_id = f"people-{uuid.uuid4().hex[:12]}"
    new = NewRun(run_id, "default", "desk", "hash", user, None, "body", 1)  # type: ignore[arg-type]
    await runs.create(database, new, Message(role=Role.USER, text="Pay it back, please."))
    said = Message(role=Role.ASSISTANT, text="He is right.", tool_calls=(ToolCall(call_id="c1", name="pay", arguments=ARGUMENTS),))
    async with database.transaction() as connection:
        await transcripts.append(connection, run_id, 1, "desk", said)
    return run_id


def asks(run_id: str, **fields: Any) -> AskRequest:
    given = {
        "step": 2,
        "call_id": "c1",
        "model_step": 1,
        "kind": "approval",
        "tool": "pay",
        "agent": AGENT,
        "tenant": "default",
        "user": "carl",
        "policy": ApprovalPolicy(),
        "since": NOW,
    }
    return AskRequest(run_id=run_id, **(given | fields))


async def put(database: Database, request: AskRequest, *allowed: str) -> Question:
    async with database.transaction() as connection:
        return await people.put(connection, request, allowed)


async def write(database: Database, run_id: str, number: int, **fields: Any) -> bool:
    given = {"order": "approve", "by": "ann", "at": NOW, "call_id": "c1", "step": 2, "outcome": "accepted", "version": 1, "closes": True}
    note = Note(number=number, **(given | fields))
    async with database.transaction() as connection:
        return await people.note(connection, RecordRequest(run_id=run_id, tenant="default", agent=AGENT), note)


async def only(database: Database, run_id: str, **wanted: Any) -> inbox.Waiting:
    (found,) = await inbox.questions(database, Wanted(run_id=run_id, **({"state": None} | wanted)))
    return found


async def test_a_question_holds_what_a_person_needs_to_decide(database: Database) -> None:
    run_id = await new_run(database)
    for _ in range(2):
        question = await put(database, asks(run_id, reason=f"a guard asks {SECRET}"), "ann")
    assert (question.arguments, question.version, question.why, question.context) == (ARGUMENTS, 1, "He is right.", "Pay it back, please.")
    assert (question.allowed, question.state) == (["ann"], "open")
    assert SECRET not in question.reason
    await only(database, run_id)


async def test_a_question_of_an_unknown_run_is_refused(database: Database) -> None:
    with pytest.raises(UnknownRunError):
        await put(database, asks("nobody-knows-it"))


async def test_a_reminder_is_counted_and_an_escalation_changes_who_is_asked_once(database: Database) -> None:
    run_id = await new_run(database)
    policy = ApprovalPolicy(by=("ann",), timeout_s=60, on_timeout="escalate", escalate_to=("hanna",), remind_every_s=20)
    await put(database, asks(run_id, policy=policy, until=NOW + timedelta(seconds=60)), "ann")
    for number in (1, 2, 1):
        await put(database, asks(run_id, policy=policy, occasion="reminder", number=number), "ann")
    later = NOW + timedelta(seconds=120)
    for _ in range(2):
        question = await put(database, asks(run_id, policy=policy, occasion="escalated", escalated=True, until=later), "hanna")
    assert (question.reminders, question.escalated, question.named, question.allowed) == (2, True, ["hanna"], ["hanna"])
    assert (question.until, question.voting_since) == (later, NOW + timedelta(seconds=60))


async def test_who_may_decide_now_is_entered_for_those_who_are_asked_now(database: Database) -> None:
    run_id = await new_run(database)
    policy = ApprovalPolicy(by=("@leads",), timeout_s=60, on_timeout="escalate", escalate_to=("@heads",))
    await put(database, asks(run_id, policy=policy), "ann")
    assert (await put(database, asks(run_id, policy=policy, occasion="decision"), "bob", "lea")).allowed == ["bob", "lea"]
    assert (await put(database, asks(run_id, policy=policy, occasion="reminder", number=1), "lea")).allowed == ["lea"]
    await put(database, asks(run_id, policy=policy, occasion="escalated", escalated=True), "hanna")
    assert (await put(database, asks(run_id, policy=policy, occasion="decision"), "ann")).allowed == ["hanna"], "it came too late"
    assert (await put(database, asks(run_id, policy=policy, occasion="decision", escalated=True), "hugo")).allowed == ["hugo"]


async def test_a_note_settles_its_question_and_counts_once(database: Database) -> None:
    run_id = await new_run(database)
    await put(database, asks(run_id))
    assert await write(database, run_id, 1)
    assert not await write(database, run_id, 1, by="bob")
    settled = await only(database, run_id)
    assert (settled.state, settled.settled_by, settled.outcome, settled.settled_at) == ("settled", "ann", "approve", NOW)
    (noted,) = await inbox.decisions(database, run_id)
    assert noted.arguments_hash == hashlib.sha256(ARGUMENTS.encode()).hexdigest()


async def test_a_decision_that_is_recorded_before_its_question_settles_it_all_the_same(database: Database) -> None:
    run_id = await new_run(database)
    await write(database, run_id, 1, at=NOW + timedelta(seconds=1))
    assert (await put(database, asks(run_id))).state == "settled"


async def test_a_question_that_is_asked_again_is_open_though_the_last_one_was_settled(database: Database) -> None:
    run_id = await new_run(database)
    await put(database, asks(run_id))
    await write(database, run_id, 1, order="timeout")
    await write(database, run_id, 2, order="redrive", letter=7, at=NOW + timedelta(seconds=9))
    again = await put(database, asks(run_id, asked=2, since=NOW + timedelta(seconds=9)))
    assert again.state == "open"
    assert not await write(database, run_id, 1, order="timeout")
    assert [each.asked for each in await inbox.questions(database, Wanted(run_id=run_id))] == [2]


async def test_votes_are_shown_until_the_arguments_change_or_it_is_escalated(database: Database) -> None:
    run_id = await new_run(database)
    await put(database, asks(run_id, policy=ApprovalPolicy(quorum=2)))
    await write(database, run_id, 1, outcome="counted", closes=False)
    await write(database, run_id, 2, outcome="refused", by="carl", closes=False)
    assert (await only(database, run_id)).yes == ["ann"]
    await edits.keep(database, edit(run_id, note=3), '{"amount_usd": 40}')
    assert (await only(database, run_id)).yes == []


def edit(run_id: str, **fields: Any) -> EditRequest:
    given = {"step": 2, "call_id": "c1", "model_step": 1, "kind": "arguments", "name": "pay", "by": "ann", "value": None}
    return EditRequest(run_id=run_id, agent=AGENT, tenant="default", **(given | fields))


async def test_the_same_edit_twice_is_one_version_and_the_next_one_the_next(database: Database) -> None:
    run_id = await new_run(database)
    await put(database, asks(run_id))
    versions = [await edits.keep(database, edit(run_id, note=note), f'{{"amount_usd": {note}}}') for note in (5, 5, 6)]
    assert versions == [2, 2, 3]
    shown = await only(database, run_id)
    assert (shown.arguments, shown.version) == ('{"amount_usd": 6}', 3)
    await write(database, run_id, 6, order="edit", version=3)
    (noted,) = await inbox.decisions(database, run_id)
    assert noted.arguments_hash == hashlib.sha256(b'{"amount_usd": 6}').hexdigest()


async def test_another_input_takes_the_place_of_the_first_which_is_kept(database: Database) -> None:
    run_id = await new_run(database)
    for note in (1, 2):
        await edits.keep(database, edit(run_id, kind="input", step=0, call_id="", note=note), f"Pay {note} back.")
    message = await transcripts.message_at(database, run_id, 0)
    assert message is not None
    assert message.text == "Pay 2 back."
    kept = await database.fetch("select version, arguments from edited_arguments where run_id = $1 order by version", run_id)
    assert [tuple(row) for row in kept] == [(1, "Pay it back, please."), (2, "Pay 1 back."), (3, "Pay 2 back.")]


@pytest.mark.parametrize("change", ["update decisions set by = 'nobody'", "delete from decisions", "truncate decisions"])
async def test_the_record_can_only_be_added_to(database: Database, change: str) -> None:
    run_id = await new_run(database)
    await write(database, run_id, 1)
    with pytest.raises(asyncpg.RaiseError, match="only ever added"):
        await database.execute(change)


async def test_the_record_outlives_its_run_and_holds_no_secrets(database: Database) -> None:
    run_id = await new_run(database)
    await put(database, asks(run_id))
    await write(database, run_id, 1, reason=f"with {SECRET}", by=SECRET)
    await database.execute("delete from runs where run_id = $1", run_id)
    (noted,) = await inbox.decisions(database, run_id)
    assert SECRET not in noted.reason + noted.by
    assert await inbox.questions(database, Wanted(run_id=run_id, state=None)) == []


async def test_what_waits_is_found_by_what_it_is_and_by_who_may_decide(database: Database) -> None:
    run_id, user = await new_run(database), f"u-{uuid.uuid4().hex[:8]}"
    policy = ApprovalPolicy(by=("ann", user), not_by_user=True, risk="high")
    await put(database, asks(run_id, policy=policy, user=user, since=datetime.now(UTC)), "ann", user)

    async def found(**wanted: Any) -> bool:
        return len(await inbox.questions(database, Wanted(run_id=run_id, **wanted))) == 1

    assert await found(risk="high", tool="pay", agent="desk", tenant="default", user=user, kind="approval", who="ann")
    assert not await found(who="bob"), "not among those asked"
    assert not await found(who=user), "the run's own user"
    assert not await found(risk="low")
    assert not await found(older_than_s=3_600)
    assert await found(older_than_s=0)


async def test_pages_of_the_inbox_neither_repeat_nor_skip(database: Database) -> None:
    agent, seen = f"desk-{uuid.uuid4().hex[:8]}", []
    for _ in range(5):
        await put(database, asks(await new_run(database), agent=AGENT.model_copy(update={"name": agent})))
    wanted = Wanted(agent=agent, limit=2)
    while page := await inbox.questions(database, wanted):
        seen += [each.run_id for each in page]
        last = page[-1]
        wanted = Wanted(agent=agent, limit=2, after=(last.since, last.run_id, last.step, last.asked))
    assert len(seen) == len(set(seen)) == await inbox.count(database, Wanted(agent=agent)) == 5


async def test_what_a_run_asked_is_withdrawn_when_it_ends(database: Database) -> None:
    run_id = await new_run(database)
    await put(database, asks(run_id))
    async with database.transaction() as connection:
        (withdrawn,) = await people.withdraw(connection, run_id, "ann", "cancelled")
    assert (withdrawn.state, withdrawn.settled_by, withdrawn.outcome) == ("withdrawn", "ann", "cancelled")


async def test_what_a_refused_order_brought_does_not_count(database: Database) -> None:
    run_id = await new_run(database)
    await put(database, asks(run_id))
    await edits.keep(database, edit(run_id, note=4), '{"amount_usd": 4}')
    await edits.keep(database, edit(run_id, note=5), '{"amount_usd": 5}')
    await edits.keep(database, edit(run_id, kind="input", step=0, call_id="", note=5), "Pay 5 back.")
    await write(database, run_id, 5, order="redrive", outcome="refused", closes=False)
    shown = await only(database, run_id)
    assert (shown.arguments, shown.version) == ('{"amount_usd": 4}', 2)
    await write(database, run_id, 4, order="edit", outcome="late", closes=False)
    shown = await only(database, run_id)
    assert (shown.arguments, shown.version) == (ARGUMENTS, 1)
    message = await transcripts.message_at(database, run_id, 0)
    assert message is not None
    assert message.text == "Pay it back, please."
