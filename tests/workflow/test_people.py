"""What people say of waiting calls: the first counts, several may be needed, time runs out, and everything is on record."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from tests.workflow.scripted import WAIT_S, Call, Engine, Handle, Script, agent, asks_for, becomes, call, final
from workflows.agent_run import AgentRun
from workflows.contracts import names
from workflows.contracts.agents import ApprovalPolicy, ToolKind
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import Verdict
from workflows.contracts.runs import RunStatus
from workflows.contracts.steps import AskedByHook, ToolOutcome

DAY_S = 86_400


def refund(**policy: Any) -> Call:
    return call("refund", {"order_id": "W1"}, needs_approval=True, policy=ApprovalPolicy(**policy))


async def waiting(engine: Engine, handle: Handle, script: Script, count: int = 1) -> None:
    """The run waits, and knows who may decide."""
    await engine.until(handle, lambda view: len(view.approvals) == count)
    await becomes(lambda: len(script.questions) >= count)


async def order(handle: Handle, name: str, **fields: Any) -> Verdict:
    async with asyncio.timeout(WAIT_S):
        return await handle.execute_update(AgentRun.order, {"order": name, **fields})


async def test_an_update_is_answered_by_what_became_of_the_order(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund()), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await order(handle, "approve", call_id="call_9", by="ann")).reason == "no call 'call_9' waits for a decision; waiting: call_2"
    assert (await order(handle, "explode")).outcome == "refused"
    assert (await order(handle, "approve", call_id=5)).reason.startswith("call_id: ")
    assert (await order(handle, "approve", call_id="call_2", by="ann")) == Verdict(outcome="accepted")
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert [(note.outcome, note.channel) for note in script.notes] == [("refused", "update")] * 3 + [("accepted", "update")]


async def test_the_first_decision_counts_the_same_again_is_one_and_a_late_one_is_told_who_was_first(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund(), call("hold", needs_approval=True)), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script, 2)
    assert (await order(handle, "reject", call_id="call_2", by="ann", reason="too old")).outcome == "accepted"
    assert (await order(handle, "reject", call_id="call_2", by="ann", reason="too old")).outcome == "duplicate"
    late = await order(handle, "approve", call_id="call_2", by="bob")
    assert (late.outcome, late.reason) == ("late", "ann has decided already: reject")
    assert (await order(handle, "approve", by="bob")).outcome == "accepted"
    await engine.result(handle)
    assert [request.name for request in script.ran] == ["hold"]
    assert [(note.order, note.by, note.outcome, note.closes) for note in script.notes] == [
        ("reject", "ann", "accepted", True),
        ("reject", "ann", "duplicate", False),
        ("approve", "bob", "late", False),
        ("approve", "bob", "accepted", True),
    ]


async def test_two_of_three_must_say_yes_and_the_runs_user_is_none_of_them(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund(by=("ann", "bob", "cy", "u1"), quorum=2, not_by_user=True)), final())
    handle = await engine.start(agent(), user="u1", skip_time=False)
    await waiting(engine, handle, script)
    assert "own user" in (await order(handle, "approve", by="u1")).reason
    assert "say who decides" in (await order(handle, "approve")).reason
    assert "dora may not decide" in (await order(handle, "approve", by="dora")).reason
    assert (await order(handle, "approve", by="ann")) == Verdict(outcome="counted", reason="1 of 2 have said yes")
    assert (await order(handle, "approve", by="ann")).outcome == "duplicate"
    assert (await engine.until(handle, lambda view: True)).approvals[0].yes == ("ann",)
    assert script.ran == []
    assert (await order(handle, "approve", by="cy")).outcome == "accepted"
    await engine.result(handle)
    assert [request.name for request in script.ran] == ["refund"]


async def test_edited_arguments_are_looked_at_first_and_are_a_yes_to_a_new_version(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund()), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    script.wrong_edits["arguments"] = "amount: 'x' is no number"
    refused = await order(handle, "edit", call_id="call_2", arguments={"amount": "x"}, by="ann")
    assert (refused.outcome, refused.reason) == ("refused", "amount: 'x' is no number")
    assert script.ran == []
    del script.wrong_edits["arguments"]
    assert (await order(handle, "edit", call_id="call_2", arguments={"amount": 5}, by="ann")).outcome == "accepted"
    await engine.result(handle)
    assert [edit.value for edit in script.edits] == [{"amount": "x"}, {"amount": 5}]
    assert script.edits[0].note != script.edits[1].note
    assert [note.version for note in script.notes] == [1, 2]


async def test_an_edit_is_a_new_version_that_needs_its_own_yeses(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund(quorum=2)), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await order(handle, "approve", by="ann")).outcome == "counted"
    assert (await order(handle, "edit", call_id="call_2", arguments={}, by="bob")).outcome == "counted"
    assert (await engine.until(handle, lambda view: True)).approvals[0].yes == ("bob",)
    assert "version 2 stands, not 1" in (await order(handle, "approve", by="ann", version=1)).reason
    assert (await order(handle, "approve", by="ann", version=2)).outcome == "accepted"
    await engine.result(handle)


async def test_an_instruction_takes_the_place_of_the_call(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund()), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    await order(handle, "instruct", call_id="call_2", message="offer a voucher", by="ann")
    await engine.result(handle)
    assert script.ran == []
    (told,) = script.asked[-1].appendices
    assert (told.text, told.is_error) == ("A person instructs you instead: offer a voucher", True)


async def test_the_agents_own_question_is_answered_and_the_answer_is_the_result(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("ask_person", {"question": "Which colour?"}, kind=ToolKind.PERSON)), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert "it is a question" in (await order(handle, "approve", call_id="call_2")).reason
    assert (await order(handle, "approve")).reason == "nothing waits for a yes or no"
    script.wrong_edits["answer"] = "choose red or blue"
    assert (await order(handle, "answer", answer="green")).reason == "choose red or blue"
    del script.wrong_edits["answer"]
    assert (await order(handle, "answer", answer="red", by="ann")).outcome == "accepted"
    await engine.result(handle)
    (told,) = script.asked[-1].appendices
    assert (told.call_id, told.text, told.is_error) == ("call_2", "red", False)


@pytest.mark.parametrize(
    ("default", "ran", "told"), [("reject", 0, "A person said no: nobody decided within 259200 s"), ("approve", 1, None)]
)
async def test_three_days_without_a_decision_end_in_the_declared_default(
    engine: Engine, script: Script, default: str, ran: int, told: str | None
) -> None:
    script.model("support", asks_for(refund(timeout_s=3 * DAY_S, on_timeout=default)), final())
    outcome = await engine.run(agent())
    assert outcome.status is RunStatus.COMPLETED
    assert outcome.waited_s >= 3 * DAY_S
    assert len(script.ran) == ran
    assert [appendix.text for appendix in script.asked[-1].appendices] == ([told] if told else [])
    (note,) = script.notes
    assert (note.order, note.channel, note.closes) == ("timeout", "timer", True)


async def test_people_are_reminded_by_durable_timers_and_then_others_are_asked(engine: Engine, script: Script) -> None:
    policy = {"by": ("ann",), "timeout_s": 3 * DAY_S, "remind_every_s": DAY_S, "on_timeout": "escalate", "escalate_to": ("boss",)}
    script.model("support", asks_for(refund(**policy)), final())
    outcome = await engine.run(agent())
    assert outcome.waited_s >= 6 * DAY_S
    assert script.ran == []
    occasions = [(asked.occasion, asked.number) for asked in script.questions]
    assert occasions == [
        ("opened", 0),
        ("reminder", 1),
        ("reminder", 2),
        ("escalated", 2),
        ("reminder", 3),
        ("reminder", 4),
        ("reminder", 5),
    ]
    first = script.questions[0]
    assert script.questions[3].until == first.since + timedelta(days=6)
    assert [note.closes for note in script.notes] == [False, True]
    (told,) = script.asked[-1].appendices
    assert "escalated though it was" in told.text


async def test_after_an_escalation_only_those_asked_may_decide(engine: Engine, script: Script) -> None:
    policy = {"by": ("ann",), "timeout_s": 1.0, "on_timeout": "escalate", "escalate_to": ("boss",)}
    script.model("support", asks_for(refund(**policy)), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    await engine.until(handle, lambda view: bool(view.approvals) and view.approvals[0].by == ("boss",))
    async with asyncio.timeout(WAIT_S):
        while "still being looked up" in (refused := await order(handle, "approve", by="ann")).reason:
            pass
    assert "boss may" in refused.reason or "nobody decided" in refused.reason or refused.outcome == "late"
    await engine.result(handle)


async def test_who_is_in_the_group_when_the_decision_comes_may_decide(engine: Engine, script: Script) -> None:
    script.groups = {"leads": ("ann", "lea")}
    script.model("support", asks_for(refund(by=("@leads",))), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await order(handle, "approve", by="bob")).reason == "bob may not decide on this; ann, lea may"
    script.groups = {"leads": ("bob",)}
    assert (await order(handle, "approve", by="ann")).reason == "ann may not decide on this; bob may"
    assert (await order(handle, "approve", by="bob")).outcome == "accepted"
    await engine.result(handle)
    assert [asked.occasion for asked in script.questions] == ["opened", "decision", "decision", "decision"]


async def test_while_nobody_can_look_the_group_up_those_decide_who_were_in_it(engine: Engine, script: Script) -> None:
    script.groups = {"leads": ("ann",)}
    script.model("support", asks_for(refund(by=("@leads",))), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await order(handle, "approve", by="bob")).outcome == "refused"
    script.groups = None
    assert (await order(handle, "approve", by="ann")).outcome == "accepted"
    await engine.result(handle)
    assert len(script.questions) > 3, "the look-up was not tried again"


async def test_nobody_deciding_can_park_the_run_and_a_redrive_asks_again(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund(timeout_s=DAY_S, on_timeout="park")), final())
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.NO_DECISION
    assert view.parked.what == "approval of refund"
    await handle.signal(names.REDRIVE, {"action": "skip", "result": "paid by hand"})
    await engine.result(handle)
    assert [appendix.text for appendix in script.asked[-1].appendices] == ["paid by hand"]


def holds(when: str) -> Any:
    def does(_request: Any) -> ToolOutcome:
        return ToolOutcome(ok=True, result_hash="h", result_bytes=1, ask=AskedByHook(when=when, reason="it looks odd"))  # type: ignore[arg-type]

    return does


async def test_a_hook_may_ask_before_a_call_and_a_yes_lets_it_run(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("ship")), final())
    script.tool("ship", holds("before"), lambda _: "shipped")
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await engine.until(handle, lambda view: True)).approvals[0].reason == "it looks odd"
    await order(handle, "approve", by="ann")
    await engine.result(handle)
    assert [request.approved for request in script.ran] == [False, True]


async def test_a_hook_may_hold_a_result_back_and_a_no_keeps_it_from_the_model(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("look_up")), final())
    script.tool("look_up", holds("after"))
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await engine.until(handle, lambda view: True)).approvals[0].kind == "result"
    await order(handle, "reject", by="ann", reason="private")
    await engine.result(handle)
    (withheld,) = script.withheld
    assert (withheld.step, withheld.reason) == (2, "A person said no: private")
    assert len(script.ran) == 1
