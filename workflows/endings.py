"""How a run ends otherwise than by its answer: aborted, stopped, cancelled, taken over; and what it leaves behind then."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows.contracts import policies, stubs
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import NOBODY, CloseRequest, Stop, TakeOver, Undoable, UndoRequest
from workflows.contracts.previews import one_line
from workflows.contracts.runs import Parked, Redrive, RunOutcome, RunStatus
from workflows.course import Course
from workflows.run_control import Aborted, Skipped


async def taken_over(course: Course, order: TakeOver) -> RunOutcome:
    """End with a person's answer in the model's place."""
    step = course.step + 1
    await _leave(course, RunStatus.COMPLETED, order.by, order.reason, answer=order.answer, step=step)
    course.doing = f"taken over by {order.by}"
    course.control.close(RunStatus.COMPLETED, course.totals)
    return course.outcome(answer_step=step, preview=one_line(order.answer), taken_over_by=order.by)


async def stopped(course: Course, order: Stop) -> RunOutcome:
    """End as cancelled, by a person's word."""
    undone = await _undo(course, order.by, order.reason) if order.undo else 0
    await _leave(course, RunStatus.CANCELLED, order.by, order.reason)
    course.doing = f"stopped by {order.by}"
    course.control.close(RunStatus.CANCELLED, course.totals)
    return course.outcome(status=RunStatus.CANCELLED, undone=undone)


async def cancelled(course: Course) -> None:
    """Clean up when Temporal was asked to cancel; the caller lets the cancellation go on."""
    if course.agent.on_cancel == "undo":
        await _undo(course, NOBODY, "the run was cancelled")
    await _leave(course, RunStatus.CANCELLED, NOBODY, "the run was cancelled")
    course.control.close(RunStatus.CANCELLED, course.totals)


async def aborted(course: Course, parked: Parked, order: Redrive | None) -> RunOutcome:
    """End as failed: a person gave a parked run up, or a sub-run reached its limit."""
    by, reason = (order.by, order.reason) if order else (NOBODY, parked.cause)
    undone = await _undo(course, by, reason) if order is not None and order.undo else 0
    if order is not None:
        await _leave(course, RunStatus.FAILED, by, reason)
    course.doing = "stopped"
    course.control.close(RunStatus.FAILED, course.totals, parked)
    return course.outcome(status=RunStatus.FAILED, failure=parked, undone=undone)


async def _undo(course: Course, by: str, reason: str) -> int:
    """Undo what the run's tools did, the last first; an undo that fails is parked like any other step. How many were undone."""
    request = _close_request(course, RunStatus.RUNNING, by, reason)
    course.now(course.step, "undoing what was done")
    found = await course.control.insist(
        lambda: workflow.execute_activity(stubs.find_undoable, request, summary="find what can be undone", **policies.CLOSING.options()),
        course.step + 1,
        "find_undoable",
        breakable=False,
    )
    undone = 0
    for effect in found:
        try:
            await _undo_one(course, effect)
        except Skipped:
            continue
        except Aborted:
            break
        undone += 1
    return undone


async def _undo_one(course: Course, effect: Undoable) -> None:
    given = course.given
    request = UndoRequest(run_id=given.run_id, agent=course.agent, tenant=given.tenant, user=given.user, effect=effect)
    what = f"undo {effect.tool}"
    while True:
        outcome = await course.control.insist(
            lambda: workflow.execute_activity(
                stubs.undo_effect,
                request.model_copy(update={"rulings": course.control.rulings(effect.step)}),
                summary=f"step {effect.step}: undo {effect.tool}",
                **policies.TOOL_RUN.options(start_to_close_s=effect.timeout_s + policies.TOOL_MARGIN_S),
            ),
            effect.step,
            what,
            breakable=False,
            may_skip=True,
        )
        if outcome.ok:
            return
        parked = Parked(failure_class=FailureClass.TOOL, cause=outcome.preview or "it failed", step=effect.step, what=what)
        await course.control.park(parked, may_skip=True)


async def _leave(course: Course, status: RunStatus, by: str, reason: str, *, answer: str | None = None, step: int = 0) -> None:
    """Withdraw what was asked, and write down the end. A database that stays away may not keep a run from ending."""
    await course.questions.withdraw()
    await workflow.wait_condition(lambda: not course.scribe.busy)  # a letter that is filed late would stay open for ever
    request = _close_request(course, status, by, reason).model_copy(update={"answer": answer, "step": step})
    try:
        await workflow.execute_activity(stubs.close_run, request, summary=f"close the run: {status.value}", **policies.CLOSING.options())
    except ActivityError:
        workflow.logger.error("run.not_closed", extra={"status": status.value})
        if answer is not None:  # it is nowhere yet
            raise


def _close_request(course: Course, status: RunStatus, by: str, reason: str) -> CloseRequest:
    given = course.given
    return CloseRequest(run_id=given.run_id, tenant=given.tenant, agent=course.agent, status=status.value, by=by, reason=reason)
