"""How a failure crosses from an activity to a workflow: one Temporal error, typed by its class, with these details."""

from __future__ import annotations

from temporalio import exceptions
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError, is_cancelled_exception

from workflows.contracts import policies
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Frozen
from workflows.contracts.runs import Parked

CAUSE_CHARS = 500


class FailureInfo(Frozen):
    """What a workflow may decide by."""

    failure_class: FailureClass
    retry_after_s: float | None = None
    code: str | None = None


def parked_by(error: FailureError, step: int, what: str) -> Parked:
    """Why a step cannot go on, read from what Temporal reports of it."""
    cause: BaseException | None = error.cause if isinstance(error, ActivityError | ChildWorkflowError) else error
    if isinstance(cause, ApplicationError):
        return Parked(failure_class=_class_of(cause), cause=cause.message[:CAUSE_CHARS], step=step, what=what)
    if isinstance(cause, exceptions.TimeoutError):
        text = f"no answer in time ({cause.type.name.lower().replace('_', ' ') if cause.type else 'time-out'})"
        if isinstance(cause.cause, ApplicationError):
            inner = parked_by(cause.cause, step, what)
            return inner.model_copy(update={"cause": f"{inner.cause} (given up: {text})"[:CAUSE_CHARS]})
        return Parked(failure_class=FailureClass.TRANSIENT, cause=text, step=step, what=what)
    if is_cancelled_exception(error):
        return Parked(failure_class=FailureClass.CALLER, cause="it was cancelled by itself, the run was not", step=step, what=what)
    text = str(cause or error)[:CAUSE_CHARS] or type(error).__name__
    return Parked(failure_class=FailureClass.CODE, cause=text, step=step, what=what)


def retry_after_s(error: FailureError) -> float | None:
    """The wait that a throttled step still owes when the time for its retries is used up, or None for any other failure."""
    cause = error.cause
    if isinstance(cause, exceptions.TimeoutError):
        cause = cause.cause
    if not isinstance(cause, ApplicationError) or cause.type != FailureClass.THROTTLED:
        return None
    details = cause.details[0] if cause.details else None
    wait = details.get("retry_after_s") if isinstance(details, dict) else None
    return policies.THROTTLED_CAP_S if wait is None else float(wait)


def _class_of(error: ApplicationError) -> FailureClass:
    try:
        return FailureClass(error.type or "")
    except ValueError:
        return FailureClass.CODE
