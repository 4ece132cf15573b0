"""Time-outs and retries: every activity has all of them, and a run that has little time left shortens them."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from temporalio.workflow import ActivityCancellationType, ParentClosePolicy

from workflows.contracts import policies
from workflows.contracts.policies import ActivityPolicy

ALL = {name: value for name, value in vars(policies).items() if isinstance(value, ActivityPolicy)}


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_policy_bounds_attempt_and_whole_and_notices_a_dead_worker(name: str) -> None:
    policy = ALL[name]
    options = policy.options()
    assert options["start_to_close_timeout"] <= options["schedule_to_close_timeout"]
    assert timedelta(0) < options["heartbeat_timeout"] <= timedelta(seconds=10)
    assert policy.heartbeat_s > policies.HEARTBEAT_EVERY_S * 2, "one lost beat is no death"
    assert options["cancellation_type"] is ActivityCancellationType.WAIT_CANCELLATION_COMPLETED
    assert options["retry_policy"].non_retryable_error_types == ["PayloadsTooLarge"]
    assert options["retry_policy"].maximum_attempts == 0, "time bounds the retries, not their number"


def test_there_is_a_policy_for_each_kind_of_activity() -> None:
    assert set(ALL) == {"MODEL_CALL", "TOOL_RUN", "MEMORY", "BATCH", "LEAVE_BATCH", "PEOPLE", "WHO_DECIDES", "EDIT_CHECK", "CLOSING"}
    assert all(dataclasses.is_dataclass(policy) for policy in ALL.values())


@pytest.mark.parametrize(
    ("within_s", "whole_s", "attempt_s"), [(None, 1_800, 600), (10_000, 1_800, 600), (700, 700, 600), (60, 60, 60), (0, 1, 1), (-5, 1, 1)]
)
def test_a_run_that_has_little_time_left_gives_less(within_s: float | None, whole_s: float, attempt_s: float) -> None:
    options = policies.MODEL_CALL.options(within_s=within_s)
    assert options["schedule_to_close_timeout"] == timedelta(seconds=whole_s)
    assert options["start_to_close_timeout"] == timedelta(seconds=attempt_s)


def test_a_tool_says_itself_how_long_an_attempt_may_take() -> None:
    options = policies.TOOL_RUN.options(start_to_close_s=90)
    assert options["start_to_close_timeout"] == timedelta(seconds=90)


def test_a_paid_answer_is_held_for_less_than_its_attempt_may_take() -> None:
    assert policies.MODEL_CALL.start_to_close_s > policies.RECORD_FOR_S + policies.STREAM_IDLE_S


def test_a_caller_that_closes_cancels_its_sub_runs() -> None:
    assert policies.CHILD_RUN["parent_close_policy"] is ParentClosePolicy.REQUEST_CANCEL
