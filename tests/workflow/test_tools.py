"""The tool calls of one turn run side by side, each at its own step."""

from __future__ import annotations

import asyncio

from tests.workflow.scripted import Engine, Script, agent, asks_for, call, fails, final
from workflows.contracts import names
from workflows.contracts.agents import Memory
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import Redrive, RunStatus
from workflows.contracts.steps import ToolRunRequest


async def test_the_tool_calls_of_one_turn_are_in_flight_at_the_same_time(engine: Engine, script: Script) -> None:
    together = asyncio.Barrier(3)

    async def waits_for_the_others(request: ToolRunRequest) -> str:
        async with asyncio.timeout(10):
            await together.wait()
        return request.name

    for name in "abc":
        script.tool(name, waits_for_the_others)
    script.model("support", asks_for(call("a"), call("b"), call("c")), final())
    outcome = await engine.run(agent())
    assert (outcome.answer_step, outcome.totals.steps, outcome.totals.calls) == (5, 5, 2)


async def test_every_call_is_told_where_its_arguments_stand(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("a"), call("b")), asks_for(call("c")), final())
    await engine.run(agent(), user="u1", tenant="t1", run_id="told-where")
    seen = sorted((r.step, r.model_step, r.call_id, r.name, r.user, r.tenant, r.run_id) for r in script.ran)
    assert seen == [
        (2, 1, "call_2", "a", "u1", "t1", "told-where"),
        (3, 1, "call_3", "b", "u1", "t1", "told-where"),
        (5, 4, "call_5", "c", "u1", "t1", "told-where"),
    ]


async def test_one_failing_call_does_not_stop_its_neighbours(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("a"), call("bad"), call("c")), final())
    script.tool("bad", fails(FailureClass.TOOL), lambda _: "mended")
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: view.parked is not None and len(script.ran) == 3)
    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert sorted(request.name for request in script.ran) == ["a", "bad", "bad", "c"]


async def test_a_run_takes_one_activity_for_each_model_and_tool_call(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("a"), call("b")), final())
    handle = await engine.start(agent())
    await engine.result(handle)
    events = await engine.events(handle)
    assert sum(event.HasField("activity_task_scheduled_event_attributes") for event in events) == 4
    assert script.recalled == script.remembered == []


async def test_memory_takes_two_activities_more_before_and_after(engine: Engine, script: Script) -> None:
    script.model("support", final())
    outcome = await engine.run(agent(memory=Memory(recall=3, remember=True)), user="u1")
    assert [(request.step, request.user) for request in script.recalled] == [(0, "u1")]
    assert [(request.step, request.user) for request in script.remembered] == [(outcome.answer_step, "u1")]
