"""Why a step is parked, read from what Temporal reports of its failure."""

from __future__ import annotations

import pytest
from temporalio import exceptions
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    CancelledError,
    ChildWorkflowError,
    FailureError,
    RetryState,
    TerminatedError,
    TimeoutType,
)

from workflows.contracts import policies
from workflows.contracts.errors import FailureClass
from workflows.contracts.failures import CAUSE_CHARS, CHAIN_LENGTH, FailureInfo, causes_of, parked_by, retry_after_s
from workflows.contracts.runs import PREVIEW_CHARS


def reported(cause: BaseException | None) -> ActivityError:
    """A failed activity, as a workflow sees it."""
    error = ActivityError(
        "Activity task failed",
        scheduled_event_id=1,
        started_event_id=2,
        identity="w",
        activity_type="call_model",
        activity_id="1",
        retry_state=RetryState.NON_RETRYABLE_FAILURE,
    )
    error.__cause__ = cause
    return error


def reported_child(cause: BaseException) -> ChildWorkflowError:
    error = ChildWorkflowError(
        "Child Workflow execution failed",
        namespace="default",
        workflow_id="r.2",
        run_id="x",
        workflow_type="AgentRun",
        initiated_event_id=1,
        started_event_id=2,
        retry_state=RetryState.NON_RETRYABLE_FAILURE,
    )
    error.__cause__ = cause
    return error


def application(failure_class: FailureClass, message: str = "it failed", wait_s: float | None = None) -> ApplicationError:
    details = FailureInfo(failure_class=failure_class, retry_after_s=wait_s).model_dump(mode="json")
    return ApplicationError(message, details, type=failure_class.value)


def timed_out(last: ApplicationError | None = None) -> exceptions.TimeoutError:
    error = exceptions.TimeoutError("timed out", type=TimeoutType.SCHEDULE_TO_CLOSE, last_heartbeat_details=[])
    error.__cause__ = last
    return error


@pytest.mark.parametrize("failure_class", list(FailureClass))
def test_an_activitys_failure_keeps_its_class_and_cause(failure_class: FailureClass) -> None:
    parked = parked_by(reported(application(failure_class)), 3, "call_model smart")
    assert (parked.failure_class, parked.cause, parked.step, parked.what) == (failure_class, "it failed", 3, "call_model smart")


@pytest.mark.parametrize(
    ("error", "failure_class", "cause"),
    [
        (reported(ApplicationError("no class of ours", type="ValueError")), FailureClass.CODE, "no class of ours"),
        (reported(ApplicationError("no class at all")), FailureClass.CODE, "no class at all"),
        (reported(timed_out()), FailureClass.TRANSIENT, "no answer in time (schedule to close)"),
        (
            reported(timed_out(application(FailureClass.TRANSIENT, "overloaded"))),
            FailureClass.TRANSIENT,
            "overloaded (given up: no answer in time (schedule to close))",
        ),
        (reported(CancelledError("cancelled")), FailureClass.CALLER, "it was cancelled by itself, the run was not"),
        (reported_child(CancelledError("cancelled")), FailureClass.CALLER, "it was cancelled by itself, the run was not"),
        (reported_child(TerminatedError("terminated by hand")), FailureClass.CODE, "terminated by hand"),
        (reported(None), FailureClass.CODE, "Activity task failed"),
    ],
)
def test_every_other_failure_gets_a_class_and_a_cause(error: FailureError, failure_class: FailureClass, cause: str) -> None:
    parked = parked_by(error, 3, "run_tool refund")
    assert (parked.failure_class, parked.cause) == (failure_class, cause)


def test_a_cause_is_short_enough_for_a_history() -> None:
    long = application(FailureClass.CALLER, "x" * 10_000)
    assert len(parked_by(reported(long), 1, "w").cause) == CAUSE_CHARS
    assert len(parked_by(reported(timed_out(long)), 1, "w").cause) == CAUSE_CHARS


@pytest.mark.parametrize(
    ("error", "wait_s"),
    [
        (reported(application(FailureClass.THROTTLED, wait_s=90)), 90),
        (reported(application(FailureClass.THROTTLED)), policies.THROTTLED_CAP_S),
        (reported(timed_out(application(FailureClass.THROTTLED, wait_s=90))), 90),
        (reported(ApplicationError("no details", type="throttled")), policies.THROTTLED_CAP_S),
        (reported(application(FailureClass.TRANSIENT, wait_s=90)), None),
        (reported(timed_out(application(FailureClass.TRANSIENT, wait_s=90))), None),
        (reported(timed_out()), None),
        (reported(None), None),
        (reported_child(CancelledError("cancelled")), None),
    ],
)
def test_a_throttled_step_waits_and_no_other_does(error: FailureError, wait_s: float | None) -> None:
    assert retry_after_s(error) == wait_s


KEY = "sk-proj-" + "Zx9Cv8Bn7Ml6" * 4


def raised() -> Exception:
    """An error with two others behind it."""
    try:
        try:
            try:
                raise ConnectionResetError(f"cut off\nsecond line with {KEY}")
            except OSError as error:
                raise ValueError(f"no answer for {KEY}") from error
        except ValueError:
            raise KeyError("order")  # noqa: B904 - what is raised while another is handled counts, too
    except KeyError as error:
        return error


def test_what_lay_behind_an_error_is_told_outermost_first_and_without_secrets() -> None:
    assert causes_of(raised()) == ("ValueError: no answer for [redacted:openai_key]", "ConnectionResetError: cut off")
    assert causes_of(ValueError("alone")) == ()


def test_a_chain_ends_however_long_or_round_it_is() -> None:
    first = last = ValueError("0")
    for number in range(1, 2 * CHAIN_LENGTH):
        last.__cause__ = ValueError(f"{number} " + "x" * 10_000)
        last = last.__cause__
    last.__cause__ = first
    told = causes_of(first)
    assert len(told) == CHAIN_LENGTH
    assert max(map(len, told)) <= PREVIEW_CHARS


def test_a_parked_step_tells_the_chain_that_the_edge_wrote_down() -> None:
    info = FailureInfo(failure_class=FailureClass.TOOL, chain=("ValueError: a", "OSError: b"))
    error = ApplicationError("it failed", info.model_dump(mode="json"), type="tool")
    assert parked_by(reported(error), 1, "run_tool pay").chain == ("ValueError: a", "OSError: b")
    assert parked_by(reported(timed_out(error)), 1, "run_tool pay").chain == ("it failed", "ValueError: a", "OSError: b")
    assert parked_by(reported(application(FailureClass.TOOL)), 1, "run_tool pay").chain == ()


def test_a_failure_with_nothing_behind_it_is_as_long_in_the_history_as_before() -> None:
    assert "chain" not in FailureInfo(failure_class=FailureClass.TOOL).model_dump(mode="json")
