"""Every time-out and retry policy, named, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType, ParentClosePolicy

HEARTBEAT_S: Final = 5.0
"""A worker that says nothing for this long is given up: what a killed worker costs its steps."""
HEARTBEAT_EVERY_S: Final = 1.5
WORKFLOW_TASK_S: Final = 5.0
"""Temporal's default of 10 s is what a killed worker costs its workflow tasks."""
STICKY_SCHEDULE_TO_START_S: Final = 2.0
"""How long a workflow task waits for the worker that has the run in its cache."""
GRACEFUL_SHUTDOWN_S: Final = 30.0
STREAM_IDLE_S: Final = 60.0
"""A stream that brings nothing for this long is dead."""
TEMPORAL_CONNECT_S: Final = 5.0

_NEVER_RETRIED: Final = ("PayloadsTooLarge",)
"""Temporal retries an oversized result for ever unless told not to."""


def _retry(initial_s: float, maximum_s: float, attempts: int = 0) -> RetryPolicy:
    return RetryPolicy(
        initial_interval=timedelta(seconds=initial_s),
        maximum_interval=timedelta(seconds=maximum_s),
        maximum_attempts=attempts,
        non_retryable_error_types=list(_NEVER_RETRIED),
    )


@dataclass(frozen=True, slots=True)
class ActivityPolicy:
    """How long one attempt, and all attempts together, may take; how soon a dead worker is noticed; how retries are spaced."""

    start_to_close_s: float
    schedule_to_close_s: float
    retry: RetryPolicy
    heartbeat_s: float = HEARTBEAT_S

    def options(self, *, within_s: float | None = None, start_to_close_s: float | None = None) -> dict[str, Any]:
        """Keyword arguments for `workflow.execute_activity`, shortened to the seconds a run has left."""
        whole_s = self.schedule_to_close_s if within_s is None else max(1.0, min(self.schedule_to_close_s, within_s))
        return {
            "start_to_close_timeout": timedelta(seconds=min(start_to_close_s or self.start_to_close_s, whole_s)),
            "schedule_to_close_timeout": timedelta(seconds=whole_s),
            "heartbeat_timeout": timedelta(seconds=self.heartbeat_s),
            "retry_policy": self.retry,
            "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        }


MODEL_CALL: Final = ActivityPolicy(start_to_close_s=600, schedule_to_close_s=1_800, retry=_retry(1, 30))
"""Retries last half an hour: provider outages are minutes long; then the run is parked."""

TOOL_RUN: Final = ActivityPolicy(start_to_close_s=86_400, schedule_to_close_s=90_000, retry=_retry(1, 30))
"""The tool's own `timeout_s` bounds an attempt; the edge adds what a slow database takes."""

TOOL_MARGIN_S: Final = 60.0
"""What an attempt may take beside the tool itself: reading arguments, writing the result, waiting out a database restart."""

BATCH: Final = ActivityPolicy(start_to_close_s=600, schedule_to_close_s=3_600, retry=_retry(1, 30))
"""One look at a batch. What it finds is read and recorded for every run of the batch."""
LEAVE_BATCH: Final = ActivityPolicy(start_to_close_s=30, schedule_to_close_s=60, retry=_retry(0.5, 5))
"""A run that is cancelled waits for it, so it is short; what it does not do in time is settled by the sweep."""

MEMORY: Final = ActivityPolicy(start_to_close_s=60, schedule_to_close_s=600, retry=_retry(0.5, 10))

PEOPLE: Final = ActivityPolicy(start_to_close_s=60, schedule_to_close_s=31_536_000, retry=_retry(0.5, 30))
"""Questions and records: however long the database is away, none is lost; the run shows what it waits for meanwhile."""

WHO_DECIDES: Final = ActivityPolicy(start_to_close_s=5, schedule_to_close_s=10, retry=_retry(0.5, 2))
"""Who is in a group now; with the database away, who was when it was looked up last."""

EDIT_CHECK: Final = ActivityPolicy(start_to_close_s=30, schedule_to_close_s=60, retry=_retry(0.5, 5))
"""A person waits for the verdict: rather refused, and sent again, than left in the air."""

CLOSING: Final = ActivityPolicy(start_to_close_s=60, schedule_to_close_s=3_600, retry=_retry(0.5, 30))
"""What a cancelled or aborted run still writes; an hour's outage may not keep it open for ever."""

RECORD_FOR_S: Final = 240.0
"""How long a paid response, or the result of an effect, is held while the database is away, before it is given up as unknown."""
RECORD_RETRY_S: Final = 0.5

TRANSIENT_BASE_S: Final = 0.5
TRANSIENT_CAP_S: Final = 20.0
THROTTLED_BASE_S: Final = 1.0
THROTTLED_CAP_S: Final = 60.0
CODE_ATTEMPTS: Final = 3
"""How often an attempt that failed by a bug of ours is tried before the run is parked."""
CANDIDATE_ATTEMPTS: Final = 4
"""How many transient failures a model candidate gets before the next one is called."""

CHILD_RUN: Final[dict[str, Any]] = {
    "parent_close_policy": ParentClosePolicy.REQUEST_CANCEL,
    "task_timeout": timedelta(seconds=WORKFLOW_TASK_S),
}
