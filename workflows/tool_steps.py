"""The steps that act: tool calls side by side, sub-agents as child workflows, the hand-over to another agent."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any

from temporalio import workflow

from workflows import run_view
from workflows.contracts import names, policies, stubs
from workflows.contracts.agents import Effect, ToolKind
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import QuestionKind, WithholdRequest
from workflows.contracts.runs import Parked, RunInput, RunOutcome
from workflows.contracts.steps import AskedByHook, ModelTurn, ToolCallRef, ToolOutcome, ToolRunRequest
from workflows.course import Course
from workflows.questions import Ruling
from workflows.run_control import Aborted, Interrupted, Skipped
from workflows.run_state import add_child

NO_REASON = "no reason given"
MAX_DEPTH = 5
"""How deep agents may call agents."""


async def run_tools(course: Course, turn: ModelTurn) -> None:
    """Run all calls of a turn side by side; a hand-over takes effect after them."""
    new = sum(not call.done for call in turn.calls)
    while course.totals.steps + new > course.agent.limits.steps:
        await course.stop_at_limit(f"limit steps: {course.agent.limits.steps} would be passed by {new} tool calls")
    handed_over: ToolCallRef | None = None
    steps = []
    for call in turn.calls:
        if call.kind is not ToolKind.HANDOFF:
            steps.append(_tool_step(course, call, turn.step))
        elif handed_over is None:
            handed_over = call
        else:
            course.append(call, "The conversation is handed over to one agent at a time.", is_error=True)
    course.now(course.step, "running " + ", ".join(call.name for call in turn.calls))
    course.totals = course.totals.model_copy(update={"steps": course.totals.steps + new})
    with course.clock.waits_of_sub_runs_forgiven():
        await _all(steps)
    if handed_over is not None and handed_over.agent is not None:
        course.append(handed_over, f"You are now {handed_over.agent.name}; the conversation so far is above.")
        course.agent = handed_over.agent.model_copy(update={"limits": course.agent.limits})


async def _tool_step(course: Course, call: ToolCallRef, model_step: int) -> None:
    if call.done or await _refused_as_repeat(course, call):
        return
    try:
        if call.kind is ToolKind.PERSON:
            await _ask_person(course, call, model_step)
        elif call.needs_approval and not await _approved(course, call, model_step):
            return
        elif call.kind is ToolKind.AGENT:
            await _sub_run(course, call)
        else:
            await _run_tool(course, call, model_step)
    except Skipped as skipped:
        said = "A person skipped this call." if skipped.done else "Not done: a person has found that out."
        course.append(call, skipped.result or said, is_error=not skipped.done)
    except Interrupted:
        course.append(call, "A person broke this off before it ended.", is_error=True)


async def _approved(
    course: Course, call: ToolCallRef, model_step: int, kind: QuestionKind = "approval", asked: AskedByHook | None = None
) -> bool:
    """Whether people said yes; what they said else is what the model is told in place of the result."""
    policy, reason = (asked.policy, asked.reason) if asked else (call.policy, "")
    while True:
        ruling = await course.questions.ask(course.ask_request(call, model_step, kind, policy, reason), call)
        if ruling.kind != "nobody":
            break
        await _park_unanswered(course, call, ruling.text, model_step)
    if ruling.kind == "yes":
        return True
    said = (
        f"A person instructs you instead: {ruling.text}" if ruling.kind == "instruct" else f"A person said no: {ruling.text or NO_REASON}"
    )
    if kind == "approval":
        course.append(call, said, is_error=True)
        return False
    request = WithholdRequest(run_id=course.given.run_id, step=call.step, by=ruling.by, reason=said)
    await course.control.insist(
        lambda: workflow.execute_activity(
            stubs.withhold_result, request, summary=f"step {call.step}: withhold the result", **policies.PEOPLE.options()
        ),
        call.step,
        f"withhold {call.name}",
        breakable=False,
    )
    return False


async def _ask_person(course: Course, call: ToolCallRef, model_step: int) -> None:
    """The agent's own question; what the person says is the call's result."""
    while True:
        ruling = await course.questions.ask(course.ask_request(call, model_step, "question", call.policy, ""), call)
        if ruling.kind != "nobody":
            break
        await _park_unanswered(course, call, ruling.text, model_step)
    if ruling.kind == "answer":
        course.append(call, ruling.text)
    else:
        course.append(call, _said(ruling), is_error=True)


def _said(ruling: Ruling) -> str:
    return (
        f"A person instructs you instead: {ruling.text}" if ruling.kind == "instruct" else f"A person said no: {ruling.text or NO_REASON}"
    )


async def _park_unanswered(course: Course, call: ToolCallRef, why: str, model_step: int) -> None:
    parked = Parked(failure_class=FailureClass.NO_DECISION, cause=why, step=call.step, what=f"approval of {call.name}")
    await course.control.park(parked, may_skip=True, call=call, model_step=model_step)


async def _refused_as_repeat(course: Course, call: ToolCallRef) -> bool:
    limit = course.agent.limits.repeats
    count = course.repeats.count(call)
    if count < limit:
        return False
    if count >= 2 * limit:
        cause = f"{call.name} was called {count} times with the same arguments and gave the same result"
        parked = Parked(failure_class=FailureClass.MODEL_BEHAVIOUR, cause=cause, step=call.step, what=f"run_tool {call.name}")
        await course.control.park(parked, may_skip=False)
        return False
    course.repeats.refused(call)
    course.append(call, f"Not run: {limit} such calls gave the same result. Do something else, or answer.", is_error=True)
    return True


async def _run_tool(course: Course, call: ToolCallRef, model_step: int) -> None:
    request = ToolRunRequest(
        run_id=course.given.run_id,
        step=call.step,
        model_step=model_step,
        call_id=call.call_id,
        name=call.name,
        agent=course.agent,
        tenant=course.given.tenant,
        user=course.given.user,
    )
    outcome = await _tool_outcome(course, call, request)
    if outcome.ask is not None and outcome.ask.when == "before":
        if not await _approved(course, call, model_step, asked=outcome.ask):
            return
        outcome = await _tool_outcome(course, call, request.model_copy(update={"approved": True}))
    if outcome.ask is not None and outcome.ask.when == "after":
        await _approved(course, call, model_step, "result", outcome.ask)
    course.repeats.seen(call, outcome.result_hash)


async def _tool_outcome(course: Course, call: ToolCallRef, request: ToolRunRequest) -> ToolOutcome:
    return await course.control.insist(
        lambda: workflow.execute_activity(
            stubs.run_tool,
            request.model_copy(update={"rulings": course.control.rulings(call.step)}),
            summary=f"step {call.step}: {call.name} {call.preview}"[:200],
            **policies.TOOL_RUN.options(within_s=course.left_s, start_to_close_s=call.timeout_s + policies.TOOL_MARGIN_S),
        ),
        call.step,
        f"run_tool {call.name}",
        call=call,
        model_step=request.model_step,
        breakable=call.effect is not Effect.ONCE,
    )


async def _sub_run(course: Course, call: ToolCallRef) -> None:
    if call.agent is None or course.given.depth >= MAX_DEPTH:
        course.append(call, f"Agents may call agents at most {MAX_DEPTH} deep; answer yourself.", is_error=True)
        return
    child = RunInput(
        run_id=f"{course.given.run_id}.{call.step}",
        agent=call.agent,
        tenant=course.given.tenant,
        user=course.given.user,
        parent_run_id=course.given.run_id,
        priority=course.given.priority,
        depth=course.given.depth + 1,
    )
    outcome = await course.control.insist(
        lambda: workflow.execute_child_workflow(
            names.AGENT_RUN,
            child,
            result_type=RunOutcome,
            id=child.run_id,
            search_attributes=run_view.search_attributes(child),
            static_summary=run_view.static_summary(child, call.preview),
            static_details=run_view.static_details(child),
            **policies.CHILD_RUN,
        ),
        call.step,
        f"agent {call.name}",
    )
    course.totals = add_child(course.totals, outcome.totals)
    course.clock.sub_run_waited(outcome.waited_s)
    failure = outcome.failure
    text = f"The agent {call.name} stopped: {failure.cause}" if failure else outcome.preview
    course.repeats.seen(call, hashlib.sha256(text.encode()).hexdigest()[:16])
    course.append(call, text, is_error=failure is not None, child_run_id=child.run_id)


async def _all(steps: list[Coroutine[Any, Any, None]]) -> None:
    """Await all; when one raises, as an order to abort does, cancel the others, and raise only when every one has ended."""
    if not steps:
        return
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await workflow.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:  # and nothing else: a run that its worker drops from its cache may await nothing more
        await _ended(tasks)
        raise
    failures = [result for result in await _ended(tasks) if isinstance(result, BaseException)]
    if failures:
        raise next((failure for failure in failures if isinstance(failure, Aborted)), failures[0])


async def _ended(tasks: list[asyncio.Task[None]]) -> list[BaseException | None]:
    """Cancel what still runs and await the end of all."""
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)
