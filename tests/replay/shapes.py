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
from workflows.contracts.errors import FailureClass, RunError, RunStateError, StepError
from workflows.contracts.runs import RunStatus, RunView

AGENTS = Path(__file__).parent / "agents"
WAIT_S = 30.0

ASKED = planted.text("input")
DONE = planted.text("answer")
NOTED: dict[str, Any] = {"order_id": "W1", "note": planted.text("arguments")}
FIND = tool_call("find_order", **NOTED)
SAID = planted.KEYS["order"]
"""What a person says beside their order."""

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
    """Three calls that wait for a person: one gets a yes, one a no, one an instruction in its place."""
    calls = tuple(("refund", {"order_id": order}) for order in ("W1", "W2", "W3"))
    async with started(stack, [ScriptedAnswer(calls=calls), DONE]) as (run, _):
        yes, no, other = (await until(run, lambda view: len(view.approvals) == 3)).approvals
        await run.approve(yes.call_id, by="ann")
        await run.reject(no.call_id, reason="too much", by="ann")
        await run.instruct(f"Offer a voucher, {SAID}.", call_id=other.call_id, by="bob")
        await run.result(timeout_s=WAIT_S)
        return run


async def signalled(stack: RunningStack) -> Run:
    """Decided by plain signals, as the Temporal UI sends them, after some that nobody can read."""
    async with started(stack, [tool_call("refund", order_id="W4"), DONE]) as (run, environment):
        await until(run, lambda view: bool(view.approvals))
        handle = environment.client.get_workflow_handle(run.id)
        for name, given in (("aprove", {}), ("approve", "yes"), ("approve", {"call_id": 7}), ("redrive", {}), ("approve", {"by": "ann"})):
            await handle.signal(name, given)
        await run.result(timeout_s=WAIT_S)
        return run


async def edited_by_a_quorum(stack: RunningStack) -> Run:
    """Two must say yes: one does by an edit, after a person who may not, the other to what was edited."""
    async with started(stack, [tool_call("dismiss", name="Max"), DONE], user="max") as (run, _):
        (asked,) = (await until(run, lambda view: bool(view.approvals))).approvals
        for by in ("max", "ann"):
            with contextlib.suppress(RunStateError):
                await run.edit(asked.call_id, {"name": "Moritz"}, by=by)
        await run.approve(by="bob")
        await run.result(timeout_s=WAIT_S)
        return run


async def question_answered(stack: RunningStack) -> Run:
    """The agent asks a person; the first answer is none of the choices."""
    asks = tool_call("ask_person", question=planted.text("arguments"), choices=["red", "blue"])
    async with started(stack, [asks, DONE]) as (run, _):
        await until(run, lambda view: bool(view.approvals))
        for answer in (f"green, {SAID}", "blue"):
            with contextlib.suppress(RunStateError):
                await run.answer(answer, by="ann")
        await run.result(timeout_s=WAIT_S)
        return run


async def out_of_time(stack: RunningStack) -> Run:
    """Two questions that nobody decides: one is reminded of, escalated and refused, the other parked, and skipped by a person."""
    calls: tuple[tuple[str, dict[str, Any]], ...] = (("close_shop", {"days": 2}), ("sell_shop", {"price": 1}))
    async with started(stack, [ScriptedAnswer(calls=calls), DONE], skip_time=True) as (run, _):
        await until(run, lambda view: view.parked is not None and not view.approvals)
        await run.redrive(action="skip", result="sold by hand", by="ann")
        await run.result(timeout_s=WAIT_S)
        return run


async def asked_by_hooks(stack: RunningStack) -> Run:
    """A hook asks before a call, another holds a result back; the call gets a yes, the result a no."""
    calls: tuple[tuple[str, dict[str, Any]], ...] = (("open_drawer", {"number": 3}), ("look_inside", {"box": "tin"}))
    async with started(stack, [ScriptedAnswer(calls=calls), DONE]) as (run, _):
        waiting = (await until(run, lambda view: len(view.approvals) == 2)).approvals
        for asked in waiting:
            await (run.approve if asked.kind == "approval" else run.reject)(asked.call_id, by="ann")
        await run.result(timeout_s=WAIT_S)
        return run


async def paused_and_resumed(stack: RunningStack) -> Run:
    """Held before a call that has its yes, given another model and other limits, and let go on."""
    async with started(stack, [tool_call("refund", order_id="W5"), DONE]) as (run, _):
        await until(run, lambda view: bool(view.approvals))
        await run.pause(by="ann", reason=f"let me look, {SAID}")
        await run.approve(by="ann")
        await until(run, lambda view: view.status is RunStatus.PAUSED)
        await run.change(model="fast", limits={"steps": 30}, by="ann")
        await run.resume(by="ann")
        await run.result(timeout_s=WAIT_S)
        return run


async def interrupted(stack: RunningStack) -> Run:
    """A new message breaks off what is in flight, and the model is told of both."""
    async with started(stack, [tool_call("wait_for_ever"), DONE]) as (run, _):
        await until(run, lambda view: "wait_for_ever" in view.doing)
        await run.interrupt(f"Never mind, {SAID}.", now=True, by="ann")
        await run.result(timeout_s=WAIT_S)
        return run


async def taken_over(stack: RunningStack) -> Run:
    """A person gives the answer while one call runs and another waits."""
    calls: tuple[tuple[str, dict[str, Any]], ...] = (("wait_for_ever", {}), ("refund", {"order_id": "W6"}))
    async with started(stack, [ScriptedAnswer(calls=calls)]) as (run, _):
        await until(run, lambda view: bool(view.approvals))
        await run.take_over(f"I have called the customer, {SAID}.", by="ann")
        await run.result(timeout_s=WAIT_S)
        return run


async def stopped_with_undo(stack: RunningStack) -> Run:
    """Ended by a person while a call waits, after what was done has been undone, the last first."""
    calls = (("book", {"room": "12"}), ("book", {"room": "13"}))
    async with started(stack, [ScriptedAnswer(calls=calls), tool_call("refund", order_id="W7")]) as (run, _):
        await until(run, lambda view: bool(view.approvals))
        await run.stop(undo=True, by="ann", reason=f"wrong hotel, {SAID}")
        with contextlib.suppress(RunError):
            await run.result(timeout_s=WAIT_S)
        return run


async def forked(stack: RunningStack) -> Run:
    """A fork inside a turn: what was paid and done before its step is walked again, the rest is done anew."""
    calls = (("find_order", NOTED), ("find_customer", {"name": "Ann"}))
    async with started(stack, [FIND, ScriptedAnswer(calls=calls), DONE, DONE]) as (run, environment):
        await run.result(timeout_s=WAIT_S)
        fork = await environment.holdfast.fork(run.id, 5)
        await fork.result(timeout_s=WAIT_S)
        return fork


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
    calls: tuple[tuple[str, dict[str, Any]], ...] = (("break_off", {}), ("wait_for_ever", {}), ("refund", {"order_id": "W8"}))
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


async def batch_left(stack: RunningStack) -> Run:
    """Stopped by a person while a model call waits for its batch."""
    async with open_environment(stack, agents=[AGENTS], model=ScriptedModel([DONE], in_batches=True)) as environment:
        run = await environment.start("support", ASKED, priority="batch")
        await until(run, lambda view: "waiting for a batch" in view.doing)
        await run.stop(by="ann")
        with contextlib.suppress(RunError):
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
        signalled,
        edited_by_a_quorum,
        question_answered,
        out_of_time,
        asked_by_hooks,
        paused_and_resumed,
        interrupted,
        taken_over,
        stopped_with_undo,
        forked,
        parked_and_redriven,
        aborted,
        cancelled,
        corrected,
        retried,
        summarised,
        in_a_batch,
        batch_left,
        remembered,
    )
}
