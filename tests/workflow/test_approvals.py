"""A tool call that needs a yes waits for a person, and no longer than that."""

from __future__ import annotations

import pytest
from temporalio.client import Client

from tests.workflow.scripted import Call, Engine, Handle, Script, agent, asks_for, call, fails, final, serving
from workflows.contracts import names
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import Decision
from workflows.contracts.runs import Redrive, RunStatus, RunView


def refund(order_id: str) -> Call:
    return call("refund", {"order_id": order_id}, needs_approval=True)


async def waiting(engine: Engine, handle: Handle, count: int) -> RunView:
    return await engine.until(handle, lambda view: len(view.approvals) == count)


async def test_an_approved_call_runs(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund("W1")), final())
    handle = await engine.start(agent())
    view = await waiting(engine, handle, 1)
    assert view.status is RunStatus.WAITING_APPROVAL
    approval = view.approvals[0]
    assert (approval.tool, approval.call_id, approval.step, approval.preview) == ("refund", "call_2", 2, '{"order_id": "W1"}')
    assert script.ran == []

    await handle.signal(names.APPROVE, Decision(call_id="call_2", by="ann"))
    await engine.result(handle)
    assert [request.step for request in script.ran] == [2]
    assert script.asked[-1].appendices == ()


async def test_a_rejected_call_does_not_run_and_the_model_is_told_why(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund("W1")), final())
    handle = await engine.start(agent())
    await waiting(engine, handle, 1)
    await handle.signal(names.REJECT, Decision(call_id="call_2", reason="the order is a year old"))
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert script.ran == []
    (told,) = script.asked[-1].appendices
    assert (told.step, told.call_id, told.is_error) == (2, "call_2", True)
    assert told.text == "A person said no: the order is a year old"


async def test_calls_that_need_no_approval_do_not_wait_for_their_neighbours(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund("W1"), call("find_order")), final())
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: bool(view.approvals) and len(script.ran) == 1)
    assert script.ran[0].name == "find_order"
    await handle.signal(names.APPROVE, Decision())
    await engine.result(handle)


async def test_each_call_gets_its_own_decision(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund("W1"), refund("W2"), refund("W3")), final())
    handle = await engine.start(agent())
    await waiting(engine, handle, 3)
    await handle.signal(names.APPROVE, Decision(call_id="call_3"))
    assert [approval.call_id for approval in (await waiting(engine, handle, 2)).approvals] == ["call_2", "call_4"]
    await handle.signal(names.REJECT, Decision(call_id="call_4"))
    await waiting(engine, handle, 1)
    await handle.signal(names.APPROVE, Decision(call_id="call_2"))
    await engine.result(handle)
    assert sorted(request.step for request in script.ran) == [2, 3]
    assert [told.text for told in script.asked[-1].appendices] == ["A person said no: no reason given"]


@pytest.mark.parametrize(("signal", "ran"), [(names.APPROVE, 3), (names.REJECT, 0)])
async def test_one_decision_without_a_call_id_is_for_all_that_wait(engine: Engine, script: Script, signal: object, ran: int) -> None:
    script.model("support", asks_for(refund("W1"), refund("W2"), refund("W3")), final())
    handle = await engine.start(agent())
    await waiting(engine, handle, 3)
    await handle.signal(signal, Decision())  # type: ignore[call-overload]
    await engine.result(handle)
    assert len(script.ran) == ran


async def test_a_decision_for_all_is_not_for_calls_that_come_later(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund("W1")), asks_for(refund("W2")), final())
    handle = await engine.start(agent())
    await waiting(engine, handle, 1)
    await handle.signal(names.APPROVE, Decision())
    view = await engine.until(handle, lambda view: bool(view.approvals) and view.approvals[0].step == 4)
    assert view.status is RunStatus.WAITING_APPROVAL
    await handle.signal(names.APPROVE, Decision())
    await engine.result(handle)


async def test_the_first_decision_of_a_call_counts(client: Client, task_queue: str, script: Script) -> None:
    engine = Engine(client, task_queue, script)
    script.model("support", asks_for(refund("W1"), refund("W2")), final())
    async with serving(client, task_queue, script):
        handle = await engine.start(agent())
        await waiting(engine, handle, 2)
    await handle.signal(names.REJECT, Decision(call_id="call_2", reason="no"))
    await handle.signal(names.APPROVE, Decision())
    await handle.signal(names.REJECT, Decision(call_id="call_3", reason="too late"))
    async with serving(client, task_queue, script):  # takes all three at once
        await engine.result(handle)
    assert [request.step for request in script.ran] == [3]
    assert [told.text for told in script.asked[-1].appendices] == ["A person said no: no"]


async def test_a_decision_for_an_unknown_call_changes_nothing(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund("W1")), asks_for(refund("W2")), final())
    handle = await engine.start(agent())
    await waiting(engine, handle, 1)
    await handle.signal(names.APPROVE, Decision(call_id="call_4"))
    await handle.signal(names.REJECT, Decision(call_id="nothing"))
    assert len((await engine.until(handle, lambda _: True)).approvals) == 1
    await handle.signal(names.APPROVE, Decision(call_id="call_2"))

    view = await engine.until(handle, lambda view: bool(view.approvals) and view.approvals[0].step == 4)
    assert view.status is RunStatus.WAITING_APPROVAL, "a decision given before its call exists is none"
    await handle.signal(names.APPROVE, Decision())
    await engine.result(handle)


async def test_an_approved_call_that_fails_is_parked_and_asks_no_second_time(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(refund("W1")), final())
    script.tool("refund", fails(FailureClass.TOOL), lambda _: "paid back")
    handle = await engine.start(agent())
    await waiting(engine, handle, 1)
    await handle.signal(names.APPROVE, Decision())
    view = await engine.parked(handle)
    assert view.approvals == ()
    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert len(script.ran) == 2
