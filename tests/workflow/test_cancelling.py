"""A cancel ends a run wherever it stands, down to the activity that is running."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from tests.workflow.scripted import Engine, Handle, HangsUntilCancelled, Script, agent, asks_for, call, fails, final
from workflows.agent_run import AgentRun
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import RunStatus, RunView


async def cancelled(engine: Engine, handle: Handle) -> RunView:
    """Cancel, await the end, and look at what is left."""
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failure:
        await engine.result(handle)
    assert isinstance(failure.value.cause, CancelledError)
    return await engine.until(handle, lambda _: True)


async def test_a_cancel_reaches_a_running_model_call(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", hanging)
    handle = await engine.start(agent())
    await hanging.began.wait()
    view = await cancelled(engine, handle)
    assert hanging.cancelled.is_set()
    assert view.status is RunStatus.CANCELLED


async def test_a_cancel_reaches_every_running_tool_of_the_turn(engine: Engine, script: Script) -> None:
    tools = {name: HangsUntilCancelled() for name in "abc"}
    for name, hanging in tools.items():
        script.tool(name, hanging)
    script.model("support", asks_for(*map(call, tools)))
    handle = await engine.start(agent())
    for hanging in tools.values():
        await hanging.began.wait()
    await cancelled(engine, handle)
    assert all(hanging.cancelled.is_set() for hanging in tools.values())


async def test_a_cancelled_run_waits_until_its_activity_has_really_ended(engine: Engine, script: Script) -> None:
    hanging, cleaned_up = HangsUntilCancelled(), asyncio.Event()

    async def cleans_up(request: object) -> str:
        try:
            return str(await hanging(request))
        finally:
            await asyncio.sleep(0.3)
            cleaned_up.set()

    script.model("support", asks_for(call("slow")))
    script.tool("slow", cleans_up)
    handle = await engine.start(agent())
    await hanging.began.wait()
    await cancelled(engine, handle)
    assert cleaned_up.is_set()


async def test_a_parked_run_can_be_cancelled(engine: Engine, script: Script) -> None:
    script.model("support", fails(FailureClass.CALLER))
    handle = await engine.start(agent())
    await engine.parked(handle)
    view = await cancelled(engine, handle)
    assert (view.status, view.parked) == (RunStatus.CANCELLED, None)


async def test_a_run_that_waits_for_an_approval_can_be_cancelled(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund", needs_approval=True)), final())
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: bool(view.approvals))
    view = await cancelled(engine, handle)
    assert (view.status, view.approvals) == (RunStatus.CANCELLED, ())
    assert script.ran == []


async def test_a_throttled_run_can_be_cancelled_in_its_long_wait(engine: Engine, script: Script) -> None:
    script.model("support", fails(FailureClass.THROTTLED, retry_after_s=4_000), final())
    handle = await engine.start(agent(time_s=86_400), skip_time=False)
    async with asyncio.timeout(10):
        async for event in handle.fetch_history_events(wait_new_event=True):
            if event.HasField("timer_started_event_attributes"):
                break
    await cancelled(engine, handle)
    assert len(script.asked) == 1


async def test_what_a_cancelled_run_has_spent_is_shown(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", asks_for(call("slow")))
    script.tool("slow", hanging)
    handle = await engine.start(agent())
    await hanging.began.wait()
    await cancelled(engine, handle)
    described = await handle.describe()
    assert described.search_attributes["CostUsd"] == [0.001]
    assert (await handle.query(AgentRun.view)).totals.calls == 1
