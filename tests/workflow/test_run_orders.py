"""Orders to the run itself: pause, interrupt, change, take over, stop; and what is undone at the end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.workflow.scripted import Engine, HangsUntilCancelled, Script, agent, asks_for, call, fails, final
from tests.workflow.test_people import order, refund, waiting
from workflows.contracts import names
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import Undoable
from workflows.contracts.runs import RunStatus


def done(step: int, tool: str) -> Undoable:
    return Undoable(step=step, call_id=f"call_{step}", tool=tool, key=f"k{step}", timeout_s=10)


async def test_a_paused_run_begins_nothing_new_and_goes_on_when_told(engine: Engine, script: Script) -> None:
    hold = asyncio.Event()

    async def slow(_request: Any) -> str:
        await hold.wait()
        return "found"

    script.model("support", asks_for(call("find_order")), final())
    script.tool("find_order", slow)
    handle = await engine.start(agent(), skip_time=False)
    await engine.until(handle, lambda view: bool(script.ran))
    assert (await order(handle, "pause", by="ann")).outcome == "accepted"
    assert (await order(handle, "pause", by="bob")).reason == "ann has paused it"
    hold.set()
    view = await engine.until(handle, lambda view: view.status is RunStatus.PAUSED)
    assert view.step == 2
    assert len(script.asked) == 1
    assert (await order(handle, "resume", by="ann")).outcome == "accepted"
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert [note.order for note in script.notes] == ["pause", "pause", "resume"]


async def test_a_message_in_mid_run_is_told_next_and_what_is_in_flight_ends(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund(), call("find_order")), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    await order(handle, "interrupt", message="It was W2, sorry.", by="u1")
    await order(handle, "instruct", message="Be brief.", by="ann")
    await order(handle, "approve", by="ann")
    await engine.result(handle)
    told = script.asked[-1].appendices
    assert [(row.step, row.part, row.call_id, row.text) for row in told] == [
        (3, 10, "", "It was W2, sorry."),
        (3, 11, "", "A person of the operator's instructs you: Be brief."),
    ]


async def test_an_interruption_now_breaks_off_the_model_and_asks_it_again(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", hanging, final())
    handle = await engine.start(agent(), skip_time=False)
    await asyncio.wait_for(hanging.began.wait(), 10)
    assert (await order(handle, "interrupt", message="Wait, W2!", now=True)).reason == "1 steps were broken off"
    await engine.result(handle)
    assert hanging.cancelled.is_set()
    assert [request.step for request in script.asked] == [1, 1]
    assert [row.text for row in script.asked[-1].appendices] == ["Wait, W2!"]


@pytest.mark.parametrize(("effect", "broken_off"), [(Effect.PURE, 1), (Effect.IDEMPOTENT, 1), (Effect.ONCE, 0)])
async def test_an_interruption_now_breaks_off_tools_but_no_effect_that_happens_once(
    engine: Engine, script: Script, effect: Effect, broken_off: int
) -> None:
    hold, began = asyncio.Event(), asyncio.Event()

    async def works(_request: Any) -> str:
        began.set()
        from temporalio import activity

        while not hold.is_set():
            activity.heartbeat()
            await asyncio.sleep(0.02)
        return "done"

    script.model("support", asks_for(call("act", effect=effect)), final())
    script.tool("act", works)
    handle = await engine.start(agent(), skip_time=False)
    await asyncio.wait_for(began.wait(), 10)
    assert (await order(handle, "interrupt", message="stop that", now=True)).reason == f"{broken_off} steps were broken off"
    if not broken_off:
        hold.set()
    await engine.result(handle)
    texts = [row.text for row in script.asked[-1].appendices]
    assert texts == (["A person broke this off before it ended."] if broken_off else []) + ["stop that"]


async def test_words_that_come_with_the_last_answer_are_answered_too(engine: Engine, script: Script) -> None:
    hold, began = asyncio.Event(), asyncio.Event()

    async def slow_answer(request: Any) -> Any:
        began.set()
        await hold.wait()
        return final("first")(request)

    script.model("support", slow_answer, final("second"))
    handle = await engine.start(agent(), skip_time=False)
    await asyncio.wait_for(began.wait(), 10)
    await order(handle, "interrupt", message="And W2?")
    hold.set()
    assert (await engine.result(handle)).preview == "second"


async def test_model_and_limits_of_a_live_run_are_changed_and_wrong_ones_are_refused(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund()), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await order(handle, "change")).reason == "nothing to change: give model, or limits"
    assert (await order(handle, "change", limits={"cost_usd": -1})).reason.startswith("limits.cost_usd: ")
    assert (await order(handle, "change", limits={"colour": "red"})).reason.startswith("limits.colour: ")
    assert (await order(handle, "change", model="fast", limits={"cost_usd": "7", "time_s": 99})).outcome == "accepted"
    await order(handle, "approve")
    await engine.result(handle)
    asked = script.asked[-1].agent
    assert (asked.model, str(asked.limits.cost_usd), asked.limits.time_s, asked.limits.steps) == ("fast", "7", 99, 50)


async def test_a_person_takes_over_and_ends_the_run_with_an_answer(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", asks_for(refund(), call("look_up")), final())
    script.tool("look_up", hanging)
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    await asyncio.wait_for(hanging.began.wait(), 10)
    assert (await order(handle, "take_over", answer="I called the customer.", by="ann")).outcome == "accepted"
    outcome = await engine.result(handle)
    assert (outcome.status, outcome.taken_over_by, outcome.preview) == (RunStatus.COMPLETED, "ann", "I called the customer.")
    assert hanging.cancelled.is_set()
    (closed,) = script.closed
    assert (closed.answer, closed.step, closed.by) == ("I called the customer.", outcome.answer_step, "ann")
    assert [note.order for note in script.notes] == ["take_over"]


async def test_a_stopped_run_undoes_what_was_done_last_effect_first(engine: Engine, script: Script) -> None:
    script.undoable = [done(5, "ship"), done(3, "refund")]
    script.model("support", asks_for(refund()), final())
    handle = await engine.start(agent(), skip_time=False)
    await waiting(engine, handle, script)
    assert (await order(handle, "stop", undo=True, by="ann")).outcome == "accepted"
    outcome = await engine.result(handle)
    assert (outcome.status, outcome.undone) == (RunStatus.CANCELLED, 2)
    assert [request.effect.tool for request in script.undone] == ["ship", "refund"]
    assert script.closed[0].status == "cancelled"


async def test_an_undo_that_fails_waits_for_a_person(engine: Engine, script: Script) -> None:
    script.undoable = [done(3, "refund")]
    script.tool("undo refund", fails(FailureClass.TOOL, "the bank says no"), lambda _: "undone")
    script.model("support", fails(FailureClass.CALLER))
    handle = await engine.start(agent(), skip_time=False)
    await engine.parked(handle)
    await handle.signal(names.REDRIVE, {"action": "abort", "undo": True, "by": "ann"})
    view = await engine.until(handle, lambda view: view.parked is not None and view.parked.what == "undo refund")
    assert view.parked is not None
    assert view.parked.cause == "the bank says no"
    await handle.signal(names.REDRIVE, {"action": "retry"})
    with pytest.raises(Exception, match="Workflow execution failed"):
        await engine.result(handle)
    assert len(script.undone) == 2
    assert [letter.parked.letter for letter in script.filed] == [1, 3]


async def test_a_run_that_is_stopped_before_its_first_step_ends_at_once(engine: Engine, script: Script) -> None:
    handle = await engine.start(agent(), skip_time=False, start_signal="stop", start_signal_args=[{"by": "ann"}])
    assert (await engine.result(handle)).status is RunStatus.CANCELLED
    assert script.asked == []


async def test_a_redrive_names_its_dead_letter_and_one_for_a_settled_letter_is_late(engine: Engine, script: Script) -> None:
    script.model("support", fails(FailureClass.CALLER), fails(FailureClass.CALLER), final())
    handle = await engine.start(agent(), skip_time=False)
    first = (await engine.parked(handle)).parked
    assert first is not None
    assert (await order(handle, "redrive", letter=first.letter)).outcome == "accepted"
    second = (await engine.until(handle, lambda view: view.parked is not None and view.parked.letter != first.letter)).parked
    assert second is not None
    assert (await order(handle, "redrive", letter=first.letter, action="abort")).outcome == "late"
    assert (await order(handle, "redrive", step=9)).reason == "no parked step 9"
    assert (await order(handle, "redrive", action="skip")).reason.startswith("skip: only a tool call can be passed over")
    assert (await order(handle, "redrive", letter=second.letter)).outcome == "accepted"
    await engine.result(handle)
    assert [filed.parked.letter for filed in script.filed] == [first.letter, second.letter]


async def test_a_redrive_may_bring_other_arguments_input_and_another_version_of_the_agent(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund")), final())
    script.tool("refund", fails(FailureClass.TOOL), lambda _: "paid")
    handle = await engine.start(agent(), skip_time=False)
    await engine.parked(handle)
    script.wrong_edits["arguments"] = "amount: missing"
    assert (await order(handle, "redrive", arguments={})).reason == "amount: missing"
    assert (await engine.until(handle, lambda view: True)).parked is not None
    del script.wrong_edits["arguments"]
    other = agent(model="other").model_copy(update={"version": "2"})
    verdict = await order(handle, "redrive", arguments={"amount": 5}, input="W2 please", agent=other.model_dump(mode="json"))
    assert verdict.outcome == "accepted"
    await engine.result(handle)
    assert [(edit.kind, edit.value) for edit in script.edits[1:]] == [("arguments", {"amount": 5}), ("input", "W2 please")]
    assert (script.asked[-1].agent.version, script.asked[-1].agent.model) == ("2", "other")


async def test_of_an_effect_that_nobody_knows_a_person_says_that_it_was_not_done(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund", effect=Effect.ONCE)), final())
    script.tool("refund", fails(FailureClass.UNKNOWN_OUTCOME))
    handle = await engine.start(agent(), skip_time=False)
    await engine.parked(handle)
    await order(handle, "redrive", action="not_done", by="ann")
    await engine.result(handle)
    assert [(row.text, row.is_error) for row in script.asked[-1].appendices] == [("Not done: a person has found that out.", True)]
    (note,) = script.notes
    assert (note.action, note.closes, note.letter) == ("not_done", True, 1)


async def test_a_call_whose_result_is_there_already_is_neither_asked_about_nor_run(engine: Engine, script: Script) -> None:
    done_before = call("refund", needs_approval=True, done=True)
    script.model("support", asks_for(done_before, call("find_order")), final())
    await engine.run(agent())
    assert [request.name for request in script.ran] == ["find_order"]
    assert script.questions == []
