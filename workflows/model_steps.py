"""The steps that ask a model: the next turn, the summary of a long history, the bound on malformed answers."""

from __future__ import annotations

import contextlib

from temporalio import workflow

from workflows import batch_steps
from workflows.contracts import policies, stubs
from workflows.contracts.errors import FailureClass
from workflows.contracts.inference import Priority
from workflows.contracts.runs import Parked
from workflows.contracts.steps import CompactOutcome, ModelTurn, TurnKind
from workflows.course import Course
from workflows.run_control import Interrupted
from workflows.run_state import add_call


async def ask(course: Course) -> ModelTurn:
    """The model's next turn; whatever stands in its way is retried or parked."""
    step = course.step + 1

    async def attempt() -> ModelTurn:
        await course.stay_within_limits()
        if course.given.priority is Priority.BATCH and (waited_for := await batch_steps.ask_in_batch(course, step)) is not None:
            return waited_for
        course.now(step, f"asking {course.agent.model}")
        return await workflow.execute_activity(
            stubs.call_model,
            course.model_request(step),
            summary=f"step {step}: {course.agent.name} asks {course.agent.model}",
            **policies.MODEL_CALL.options(within_s=course.left_s),
        )

    while True:
        await course.control.unpaused()
        course.tell()
        with contextlib.suppress(Interrupted):  # asked again, with what the person said; an answer that came all the same is not paid twice
            turn = await course.control.insist(attempt, step, f"call_model {course.agent.model}")
            break
    if turn.kind in (TurnKind.CONTEXT_FULL, TurnKind.LIMIT):
        return turn
    course.appendices.clear()
    course.step = turn.last_step
    course.model = turn.model or course.model
    course.previous = f"{turn.provider}:{turn.model}" if turn.provider and not turn.cached else course.previous
    course.totals = add_call(course.totals, turn)
    return turn


async def compact(course: Course, turn: ModelTurn) -> None:
    """Have the history summarised; parks when it was, and still does not fit."""
    step = course.step + 1
    if course.compacted:
        cause = turn.reason or "the conversation does not fit the model's context, summarised though it is"
        parked = Parked(failure_class=FailureClass.CONTEXT, cause=cause, step=step, what=f"call_model {course.agent.model}")
        await course.control.park(parked, may_skip=False)
        return

    async def attempt() -> CompactOutcome:
        await course.stay_within_limits()
        course.now(step, "summarising the older part of the conversation")
        return await workflow.execute_activity(
            stubs.compact_history,
            course.model_request(step),
            summary=f"step {step}: summarise the history",
            **policies.MODEL_CALL.options(within_s=course.left_s),
        )

    outcome = await course.control.insist(attempt, step, "compact_history", breakable=False)
    course.appendices.clear()
    course.compacted = True
    course.step = step
    course.totals = add_call(course.totals, outcome)


async def correct(course: Course, turn: ModelTurn) -> None:
    """Bound how often in a row a malformed answer is told back to the model; the telling is in the transcript already."""
    if turn.kind is not TurnKind.INVALID and not turn.invalid_calls:
        course.corrections = 0
        return
    course.corrections += 1
    if course.corrections > course.agent.limits.corrections and turn.shared:  # a person let the run that recorded it go on
        course.corrections = 0
    elif course.corrections > course.agent.limits.corrections:
        cause = f"{course.corrections} malformed answers in a row; the last: {turn.reason}"
        parked = Parked(failure_class=FailureClass.MODEL_BEHAVIOUR, cause=cause, step=course.step, what=f"call_model {turn.model}")
        await course.control.park(parked, may_skip=False)
        course.corrections = 0
