"""The activity edge: every activity beats here, and every failure is translated here once into one Temporal error."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from workflows.contracts import policies
from workflows.contracts.errors import FailureClass, HoldfastError, StepError, UnavailableError, UsageError
from workflows.contracts.failures import CAUSE_CHARS, FailureInfo, causes_of
from workflows.contracts.redaction import redact

log = structlog.get_logger("holdfast.edge")

T = TypeVar("T")

_progress: ContextVar[dict[str, Any] | None] = ContextVar("holdfast_progress", default=None)

_RETRIED = frozenset({FailureClass.THROTTLED, FailureClass.TRANSIENT, FailureClass.CODE})


def report(**fields: Any) -> None:
    """Put fields into what the next heartbeat of the running activity says; outside an activity it does nothing."""
    progress = _progress.get()
    if progress is not None:
        progress.update(fields)


async def until_available(write: Callable[[], Awaitable[T]]) -> T:
    """Write down what cannot be had again, however long the database is away within reason.

    Raises:
        UnavailableError: it was away for longer than `RECORD_FOR_S`.
    """
    deadline = time.monotonic() + policies.RECORD_FOR_S
    while True:
        try:
            return await write()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            log.warning("record.waits_for_database")
            await asyncio.sleep(policies.RECORD_RETRY_S)


class EdgeInterceptor(Interceptor):
    """Give every activity of a worker its heartbeats and its one error type."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Wrap the activity."""
        return _Edge(next)


class _Edge(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        token = _progress.set({})
        beats = asyncio.create_task(_beat()) if activity.info().heartbeat_timeout else None
        try:
            return await self.next.execute_activity(input)
        except (asyncio.CancelledError, CancelledError, ApplicationError):
            raise
        except Exception as error:
            # `from None`: Temporal would write the messages of all causes into the history, unredacted. The frames stay.
            raise translate(error, activity.info().attempt).with_traceback(error.__traceback__) from None
        finally:
            if beats is not None:
                beats.cancel()
            _progress.reset(token)


async def _beat() -> None:
    started = time.monotonic()
    while True:
        await asyncio.sleep(policies.HEARTBEAT_EVERY_S)
        activity.heartbeat({"elapsed_s": round(time.monotonic() - started, 1)} | (_progress.get() or {}))


def translate(error: Exception, attempt: int) -> ApplicationError:
    """The Temporal error for a failure: typed by its class, retried as the class says, with full jitter."""
    step_error = _as_step_error(error)
    failure_class = step_error.failure_class
    delay_s = _delay_s(step_error, attempt)
    final = (
        failure_class not in _RETRIED or step_error.wakeable or (failure_class is FailureClass.CODE and attempt >= policies.CODE_ATTEMPTS)
    )
    log.warning(
        "activity.failed",
        failure_class=failure_class.value,
        code=step_error.code,
        attempt=attempt,
        retried=not final,
        delay_s=None if final else round(delay_s, 3),
    )
    return ApplicationError(
        redact(str(step_error))[:CAUSE_CHARS],
        FailureInfo(
            failure_class=failure_class, retry_after_s=step_error.retry_after_s, code=step_error.code, chain=causes_of(error)
        ).model_dump(mode="json"),
        type=failure_class.value,
        non_retryable=final,
        next_retry_delay=None if final else timedelta(seconds=delay_s),
    )


def _as_step_error(error: Exception) -> StepError:
    if isinstance(error, StepError):
        return error
    if isinstance(error, UnavailableError):
        return StepError(str(error), failure_class=FailureClass.TRANSIENT)
    if isinstance(error, UsageError):
        return StepError(str(error), failure_class=FailureClass.CALLER)
    log.error("activity.bug", error_type=type(error).__name__, exc_info=error)
    text = str(error) if isinstance(error, HoldfastError) else f"{type(error).__name__}: {error}"
    return StepError(text, failure_class=FailureClass.CODE)


def _delay_s(error: StepError, attempt: int) -> float:
    """Full jitter under an exponential cap, and never sooner than the other side asked; a zero would be dropped by Temporal."""
    if error.exact and error.retry_after_s is not None:
        return max(0.05, error.retry_after_s)
    throttled = error.failure_class is FailureClass.THROTTLED
    base_s = policies.THROTTLED_BASE_S if throttled else policies.TRANSIENT_BASE_S
    cap_s = policies.THROTTLED_CAP_S if throttled else policies.TRANSIENT_CAP_S
    jitter_s = random.uniform(0, min(cap_s, base_s * 2 ** min(attempt - 1, 10)))  # noqa: S311 - spreads retries, keeps no secret
    return max(0.05, (error.retry_after_s or 0.0) + jitter_s)
