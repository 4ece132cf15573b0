"""How a failure crosses from an activity to a workflow: one Temporal error, typed by its class, with these details."""

from __future__ import annotations

from typing import Final

from pydantic import Field
from temporalio import exceptions
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, FailureError, is_cancelled_exception

from workflows.contracts import policies
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Frozen
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact
from workflows.contracts.runs import Parked

CAUSE_CHARS = 500
CHAIN_LENGTH: Final = 5
"""How much of what lay behind a failure is told: a history keeps it, so it is short."""


class FailureInfo(Frozen):
    """What a workflow may decide by."""

    failure_class: FailureClass
    retry_after_s: float | None = None
    code: str | None = None
    chain: tuple[str, ...] = Field(default=(), exclude_if=lambda chain: not chain)
    """What lay behind it, outermost first; left out of the history where nothing did."""


def causes_of(error: BaseException) -> tuple[str, ...]:
    """What an error was raised from, outermost first: kind and first line of each, redacted and cut."""
    told: list[str] = []
    seen = {id(error)}
    behind = _behind(error)
    while behind is not None and id(behind) not in seen and len(told) < CHAIN_LENGTH:
        seen.add(id(behind))
        text = str(behind).strip().partition("\n")[0]
        told.append(one_line(redact(f"{type(behind).__name__}: {text}" if text else type(behind).__name__)))
        behind = _behind(behind)
    return tuple(told)


def _behind(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def parked_by(error: FailureError, step: int, what: str) -> Parked:
    """Why a step cannot go on, and what lay behind it, read from what Temporal reports of it."""
    return _parked_by(error, step, what).model_copy(update={"chain": _chain_of(error)})


def _chain_of(error: FailureError) -> tuple[str, ...]:
    """What the activity's edge wrote down, else what Temporal itself keeps behind the cause."""
    cause: BaseException | None = error.cause if isinstance(error, ActivityError | ChildWorkflowError) else error
    told: list[str] = []
    while isinstance(cause, FailureError) and len(told) < CHAIN_LENGTH:
        details = cause.details[0] if isinstance(cause, ApplicationError) and cause.details else None
        chain = details.get("chain") if isinstance(details, dict) else None
        if isinstance(chain, list | tuple):
            told += [one_line(str(each)) for each in chain]
        cause = cause.cause
        if isinstance(cause, FailureError):
            told.append(one_line(redact(cause.message)))
    return tuple(told[:CHAIN_LENGTH])


def _parked_by(error: FailureError, step: int, what: str) -> Parked:
    cause: BaseException | None = error.cause if isinstance(error, ActivityError | ChildWorkflowError) else error
    if isinstance(cause, ApplicationError):
        return Parked(failure_class=_class_of(cause), cause=cause.message[:CAUSE_CHARS], step=step, what=what)
    if isinstance(cause, exceptions.TimeoutError):
        text = f"no answer in time ({cause.type.name.lower().replace('_', ' ') if cause.type else 'time-out'})"
        if isinstance(cause.cause, ApplicationError):
            inner = _parked_by(cause.cause, step, what)
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
