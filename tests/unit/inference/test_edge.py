"""Every failure is translated once, into one Temporal error: its class says whether and when it is tried again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from temporalio.exceptions import ApplicationError

from activities import edge
from state.pool import DatabaseUnavailableError
from workflows.contracts import policies
from workflows.contracts.errors import FailureClass, HoldfastError, StepError, UnknownModelError
from workflows.contracts.failures import CAUSE_CHARS, FailureInfo

RETRIED = {FailureClass.THROTTLED, FailureClass.TRANSIENT, FailureClass.CODE}
KEY = "sk-proj-" + "Zx9Cv8Bn7Ml6" * 4


def delay_s(error: ApplicationError) -> float:
    assert error.next_retry_delay is not None
    return error.next_retry_delay.total_seconds()


@pytest.mark.parametrize("failure_class", list(FailureClass))
def test_every_class_has_its_own_type_and_is_retried_or_not(failure_class: FailureClass):
    error = edge.translate(StepError("it failed", failure_class=failure_class, code="529"), 1)
    assert (error.type, error.message) == (failure_class.value, "it failed")
    assert error.non_retryable is (failure_class not in RETRIED)
    assert (error.next_retry_delay is None) is (failure_class not in RETRIED)
    assert FailureInfo.model_validate(error.details[0]) == FailureInfo(failure_class=failure_class, code="529")


@pytest.mark.parametrize(
    ("raised", "failure_class", "told"),
    [
        (DatabaseUnavailableError("The database cannot be reached."), FailureClass.TRANSIENT, "The database cannot be reached."),
        (UnknownModelError("No provider serves it."), FailureClass.CALLER, "No provider serves it."),
        (HoldfastError("Something of ours."), FailureClass.CODE, "Something of ours."),
        (KeyError("lost"), FailureClass.CODE, "KeyError: 'lost'"),
        (TimeoutError(), FailureClass.CODE, "TimeoutError: "),
    ],
)
def test_what_is_no_step_error_gets_the_class_of_its_kind(raised: Exception, failure_class: FailureClass, told: str):
    error = edge.translate(raised, 1)
    assert (error.type, error.message) == (failure_class.value, told)


def test_a_bug_is_tried_a_few_times_only():
    assert [edge.translate(KeyError("x"), attempt).non_retryable for attempt in range(1, policies.CODE_ATTEMPTS + 1)] == [False] * (
        policies.CODE_ATTEMPTS - 1
    ) + [True]


@pytest.mark.parametrize(
    ("failure_class", "base_s", "cap_s"),
    [
        (FailureClass.TRANSIENT, policies.TRANSIENT_BASE_S, policies.TRANSIENT_CAP_S),
        (FailureClass.THROTTLED, policies.THROTTLED_BASE_S, policies.THROTTLED_CAP_S),
    ],
)
def test_retries_are_spread_over_a_window_that_doubles_up_to_a_cap(failure_class: FailureClass, base_s: float, cap_s: float):
    error = StepError("it failed", failure_class=failure_class)
    for attempt in (1, 2, 5, 50, 10_000):
        window_s = min(cap_s, base_s * 2 ** min(attempt - 1, 10))
        delays = [delay_s(edge.translate(error, attempt)) for _ in range(400)]
        assert all(0.05 <= delay <= window_s for delay in delays), "never zero, which Temporal would drop"
        assert max(delays) > window_s * 0.9
        assert min(delays) < max(window_s * 0.1, 0.06)


def test_no_retry_comes_sooner_than_the_other_side_asked():
    error = StepError("slow down", failure_class=FailureClass.THROTTLED, retry_after_s=90)
    delays = [delay_s(edge.translate(error, 1)) for _ in range(100)]
    assert all(90 <= delay <= 90 + policies.THROTTLED_BASE_S for delay in delays)
    assert len(set(delays)) > 50, "and not all at the same moment"
    assert FailureInfo.model_validate(edge.translate(error, 1).details[0]).retry_after_s == 90


def test_messages_are_redacted_and_short():
    error = edge.translate(StepError(f"wrong key {KEY} " + "x" * 5_000, failure_class=FailureClass.CALLER), 1)
    assert KEY not in error.message
    assert error.message.startswith("wrong key [redacted")
    assert len(error.message) == CAUSE_CHARS


async def test_what_is_reported_outside_an_activity_goes_nowhere():
    edge.report(events=1)


async def test_a_write_is_repeated_until_the_database_is_back():
    tries: list[int] = []

    async def write() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise DatabaseUnavailableError
        return "written"

    assert await edge.until_available(write) == "written"
    assert len(tries) == 3


@pytest.mark.parametrize("error", [ValueError("a bug"), asyncio.CancelledError()])
async def test_a_write_that_fails_otherwise_is_not_repeated(error: BaseException):
    tries: list[Any] = []

    async def write() -> None:
        tries.append(1)
        raise error

    with pytest.raises(type(error)):
        await edge.until_available(write)
    assert len(tries) == 1
