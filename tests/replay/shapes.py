"""Every shape that a run's history can take, each brought about by a real run: real activities, a scripted model."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from activities.inference.providers.scripted import Script, ScriptedAnswer, ScriptedModel, tool_call
from client.run import Run
from devstack.stack import RunningStack
from testkit.environment import AgentEnvironment, open_environment
from tests.replay import planted
from workflows.contracts.agents import Limits
from workflows.contracts.errors import FailureClass, RunError, StepError
from workflows.contracts.runs import RunView

AGENTS = Path(__file__).parent / "agents"
WAIT_S = 30.0

ASKED = planted.text("input")
DONE = planted.text("answer")
NOTED: dict[str, Any] = {"order_id": "W1", "note": planted.text("arguments")}
FIND = tool_call("find_order", **NOTED)

Shape = Callable[[RunningStack], Awaitable[Run]]


@contextlib.asynccontextmanager
async def started(
    stack: RunningStack, answers: list[Script], *, agent: str = "support", skip_time: bool = False, **options: Any
) -> AsyncIterator[tuple[Run, AgentEnvironment]]:
    """A run whose model gives these answers."""
    async with open_environment(stack, agents=[AGENTS], model=ScriptedModel(answers), time_skipping=skip_time) as environment:
        yield await environment.start(agent, ASKED, **options), environment


async def until(run: Run, reached: Callable[[RunView], bool]) -> RunView:
    """Wait until the run stands so."""
    async with asyncio.timeout(WAIT_S):
        while True:
            view = await run.view()
            if reached(view):
                return view
            await asyncio.sleep(0.02)


async def finished(stack: RunningStack, answers: list[Script], **options: Any) -> Run:
    """A run that needs nobody, at its end."""
    async with started(stack, answers, **options) as (run, _):
        await run.result(timeout_s=WAIT_S)
        return run


async def plain(stack: RunningStack) -> Run:
    """A question, a tool, an answer."""
    return await finished(stack, [FIND, DONE])


async def parallel_tools(stack: RunningStack) -> Run:
    """Three tools at the same time, then an answer."""
    calls = (("find_order", NOTED), ("find_customer", {"name": "Ann"}), ("find_order", {"order_id": "W2"}))
    return await finished(stack, [ScriptedAnswer(calls=calls), DONE])


async def sub_agent(stack: RunningStack) -> Run:
    """Another agent called as a tool, beside a tool of its own."""
    calls = (("helper", {"request": planted.text("arguments")}), ("find_order", NOTED))
    return await finished(stack, [ScriptedAnswer(calls=calls), DONE, DONE])


async def hand_over(stack: RunningStack) -> Run:
    """The conversation handed over to another agent, which goes on with it."""
    return await finished(stack, [tool_call("hand_over_to_billing", reason=planted.text("arguments")), FIND, DONE])


async def approved_and_rejected(stack: RunningStack) -> Run:
    """Two calls that wait for a person: one gets a yes, the other a no."""
    calls = (("refund", {"order_id": "W1"}), ("refund", {"order_id": "W2"}))
    async with started(stack, [ScriptedAnswer(calls=calls), DONE]) as (run, _):
        waiting = (await until(run, lambda view: len(view.approvals) == 2)).approvals
        await run.approve(waiting[0].call_id)
        await run.reject(waiting[1].call_id, reason="too much")
        await run.result(timeout_s=WAIT_S)
        return run


async def parked_and_redriven(stack: RunningStack) -> Run:
    """Parked four times: a model that refuses, an unknown outcome that is skipped, another that is retried, a limit that is raised."""
    refused = StepError(f"wrong key {planted.KEYS['failure']}", failure_class=FailureClass.CALLER)
    broken = tool_call("break_off")
    limits = Limits(calls=3)
    async with started(stack, [refused, broken, broken, FIND, DONE], limits=limits) as (run, _):
        for orders in ({"model": "fast"}, {"action": "skip", "result": "done by hand"}, {}, {"action": "skip"}, {"limits": Limits()}):
            await until(run, lambda view: view.parked is not None)
            await run.redrive(**orders)  # type: ignore[arg-type]
        await run.result(timeout_s=WAIT_S)
        return run


async def aborted(stack: RunningStack) -> Run:
    """Parked, with a neighbour that runs and one that waits, and ended by a person."""
    calls: tuple[tuple[str, dict[str, Any]], ...] = (("break_off", {}), ("wait_for_ever", {}), ("refund", {"order_id": "W3"}))
    async with started(stack, [ScriptedAnswer(calls=calls)]) as (run, _):
        await until(run, lambda view: view.parked is not None and bool(view.approvals))
        await run.redrive(action="abort")
        with contextlib.suppress(RunError):
            await run.result(timeout_s=WAIT_S)
        return run


async def cancelled(stack: RunningStack) -> Run:
    """Cancelled while a tool runs."""
    async with started(stack, [tool_call("wait_for_ever")]) as (run, _):
        await until(run, lambda view: "wait_for_ever" in view.doing)
        await run.cancel()
        with contextlib.suppress(RunError):
            await run.result(timeout_s=WAIT_S)
        return run


async def corrected(stack: RunningStack) -> Run:
    """Malformed answers, an unknown tool, and the same call again and again, each told to the model."""
    malformed = [ScriptedAnswer(text=""), ScriptedAnswer(calls=(("nothing", {}), ("find_order", NOTED)))]
    return await finished(stack, [*malformed, FIND, FIND, DONE])


async def retried(stack: RunningStack) -> Run:
    """A model that is overloaded once, then throttled for longer than its schedule allows: a durable timer."""
    overloaded = StepError("overloaded", failure_class=FailureClass.TRANSIENT)
    throttled = StepError("slow down", failure_class=FailureClass.THROTTLED, retry_after_s=4_000)
    return await finished(stack, [overloaded, throttled, DONE], limits=Limits(time_s=10_000), skip_time=True)


async def summarised(stack: RunningStack) -> Run:
    """A context that is full: the history is summarised, and the run goes on."""
    full = StepError("too long", failure_class=FailureClass.CONTEXT)
    return await finished(stack, [FIND, full, planted.text("answer"), DONE])


async def in_a_batch(stack: RunningStack) -> Run:
    """Two model calls by the provider's Batch API, each waited for by durable timers."""
    model = ScriptedModel([FIND, DONE], in_batches=True)
    async with open_environment(stack, agents=[AGENTS], model=model, time_skipping=True) as environment:
        run = await environment.start("support", ASKED, priority="batch")
        await run.result(timeout_s=WAIT_S)
        return run


async def remembered(stack: RunningStack) -> Run:
    """A second run of a user, which recalls the first."""
    await finished(stack, [DONE], agent="diarist", user="ann")
    return await finished(stack, [DONE], agent="diarist", user="ann")


SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (
        plain,
        parallel_tools,
        sub_agent,
        hand_over,
        approved_and_rejected,
        parked_and_redriven,
        aborted,
        cancelled,
        corrected,
        retried,
        summarised,
        in_a_batch,
        remembered,
    )
}
