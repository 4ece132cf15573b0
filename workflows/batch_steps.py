"""The model call of a run that can wait: a place in a batch, looked at by durable timers that grow."""

from __future__ import annotations

import contextlib

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

from workflows.contracts import policies, stubs
from workflows.contracts.batches import BatchLook, BatchPlace, BatchState
from workflows.contracts.steps import ModelTurn
from workflows.course import Course


async def ask_in_batch(course: Course, step: int) -> ModelTurn | None:
    """The model's next turn by the provider's Batch API; None: the call is to be made as an ordinary one."""
    course.now(step, f"asking {course.agent.model} in a batch")
    request = course.model_request(step)
    place: BatchPlace = await workflow.execute_activity(
        stubs.submit_batch,
        request,
        summary=f"step {step}: {course.agent.name} asks {course.agent.model} in a batch",
        **policies.BATCH.options(),
    )
    if place.call_id is None:
        return place.turn
    look = BatchLook(call=request.model_copy(update={"appendices": ()}), call_id=place.call_id)
    try:
        return await _answer(course, place, look)
    except BaseException as error:
        if is_cancelled_exception(error) and (course.control.ending or workflow.cancellation_reason() is not None):
            await _leave(look)
        raise


async def _answer(course: Course, place: BatchPlace, look: BatchLook) -> ModelTurn | None:
    """Look, and look again after twice the time, until the batch has brought an answer, or has none to bring."""
    step, waits_for = look.call.step, f"a batch of {place.provider}"
    wait_s, next_s, woken = place.gather_s, place.first_look_s, False
    course.now(step, f"waiting for {waits_for} to be handed in")
    while True:
        if wait_s > 0:
            woken = await course.control.wait_for_batch(wait_s, f"step {step}: {waits_for}")
        state: BatchState = await workflow.execute_activity(
            stubs.collect_batch,
            look.model_copy(update={"at_once": woken}),
            summary=f"step {step}: look at {waits_for}",
            **policies.BATCH.options(),
        )
        if state.turn is not None or state.ordinary:
            return state.turn
        since = f", handed in {state.handed_in_at:%Y-%m-%d %H:%M} UTC" if state.handed_in_at else " to be handed in"
        course.now(step, f"waiting for {waits_for}{since}")
        wait_s, next_s = next_s, min(2 * next_s, place.longest_look_s)


async def _leave(look: BatchLook) -> None:
    """The cancelled run's last word; what goes wrong with it must not keep the run from ending."""
    with contextlib.suppress(ActivityError):
        await workflow.execute_activity(
            stubs.leave_batch, look, summary=f"step {look.call.step}: leave the batch", **policies.LEAVE_BATCH.options()
        )
