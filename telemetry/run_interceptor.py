"""Binds run, step, agent and tenant around every workflow and activity, and logs and counts what begins, ends and fails.

It belongs to every worker, whether telemetry is exported or not. What a workflow does is told once: not while its history is
replayed, and not when it leaves the worker's cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, TypeGuard

import structlog
from temporalio import activity, client, worker, workflow
from temporalio.exceptions import ApplicationError, CancelledError, is_cancelled_exception

from telemetry import names
from telemetry.context import RunBinding, bind_run
from telemetry.signals import signals
from telemetry.spans import record_unknown_spend, record_wait
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import RunInput, RunOutcome, RunStatus

log = structlog.get_logger("holdfast.run")


class RunInterceptor(client.Interceptor, worker.Interceptor):
    """Give it to `Client.connect`; workers of that client take it from there."""

    def intercept_activity(self, next: worker.ActivityInboundInterceptor) -> worker.ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Wrap the activity."""
        return _ActivityInbound(next)

    def workflow_interceptor_class(self, input: worker.WorkflowInterceptorClassInput) -> type[worker.WorkflowInboundInterceptor]:  # noqa: A002 - the SDK's name
        """Wrap the workflow."""
        return _WorkflowInbound


class _ActivityInbound(worker.ActivityInboundInterceptor):
    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        with binding_of(input.args) as binding:
            _count_start()
            try:
                result = await self.next.execute_activity(input)
            except (asyncio.CancelledError, CancelledError):
                _count_step("cancelled")
                raise
            except Exception as error:
                _count_failure(error)
                raise
            _count_step("completed")
            record_unknown_spend(getattr(result, "unknown_usd", None) or Decimal(0), agent=binding.agent)
            return result


class _WorkflowInbound(worker.WorkflowInboundInterceptor):
    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:  # noqa: A002 - the SDK's name
        with binding_of(input.args, run_id=workflow.info().workflow_id):
            given = run_of(input.args)
            if given is None:
                return await self.next.execute_workflow(input)
            _tell_start(given)
            try:
                outcome = await self.next.execute_workflow(input)
            except (Exception, asyncio.CancelledError) as error:
                _tell_failure(given, error)
                raise
            if is_outcome(outcome):
                _tell_end(outcome.agent, outcome.status, outcome)
            return outcome

    async def handle_signal(self, input: worker.HandleSignalInput) -> None:  # noqa: A002 - the SDK's name
        with bind_run(run_id=workflow.info().workflow_id):
            await self.next.handle_signal(input)

    async def handle_update_handler(self, input: worker.HandleUpdateInput) -> Any:  # noqa: A002 - the SDK's name
        with bind_run(run_id=workflow.info().workflow_id):
            return await self.next.handle_update_handler(input)


def binding_of(args: Sequence[Any], run_id: str | None = None) -> RunBinding:
    """What the first argument of a workflow or activity says of its run; all our requests name these fields alike."""
    first = args[0] if args else None
    step = getattr(first, "step", None)
    return bind_run(
        run_id=_text(getattr(first, "run_id", None)) or run_id,
        step=step if isinstance(step, int) else None,
        agent=_text(getattr(getattr(first, "agent", None), "name", None)),
        tenant=_text(getattr(first, "tenant", None)),
    )


def run_of(args: Sequence[Any]) -> RunInput | None:
    """The run that a workflow is given. Told by the class's name: a sandbox that reloads our modules makes classes of its own."""
    first = args[0] if args else None
    return first if type(first).__name__ == RunInput.__name__ else None


def is_outcome(value: Any) -> TypeGuard[RunOutcome]:
    """Whether a workflow's result is a run's, whichever copy of the class made it."""
    return type(value).__name__ == RunOutcome.__name__


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count_start() -> None:
    info = activity.info()
    waited_s = (info.started_time - info.current_attempt_scheduled_time).total_seconds()
    record_wait("worker", max(0.0, waited_s))


def _count_step(outcome: str) -> None:
    if (metrics := signals().metrics) is not None:
        metrics.step(activity.info().activity_type, outcome)


def _count_failure(error: Exception) -> None:
    if (metrics := signals().metrics) is None:
        return
    _count_step("failed")
    classed = error.type if isinstance(error, ApplicationError) else None
    final = isinstance(error, ApplicationError) and error.non_retryable
    metrics.failure(activity.info().activity_type, classed or FailureClass.CODE.value, retried=not final)


def _tell_start(given: RunInput) -> None:
    if workflow.unsafe.is_replaying():
        return
    if given.carry is not None:
        log.info(names.EVENT_RUN_CONTINUED, at_step=given.carry.step)
        return
    log.info(names.EVENT_RUN_STARTED, version=given.agent.version, model=given.agent.model, parent_run=given.parent_run_id)
    if (metrics := signals().metrics) is not None:
        metrics.run_started(given.agent.name)


def _tell_failure(given: RunInput, error: BaseException) -> None:
    if is_cancelled_exception(error):
        _tell_end(given.agent.name, RunStatus.CANCELLED, None)
    elif workflow.is_failure_exception(error):
        _tell_end(given.agent.name, RunStatus.FAILED, None)
    # Anything else is a bug: Temporal retries the workflow task and its SDK logs it.


def _tell_end(agent: str, status: RunStatus, outcome: RunOutcome | None) -> None:
    if workflow.unsafe.is_replaying():
        return
    duration_s = (workflow.now() - workflow.info().start_time).total_seconds()
    told: dict[str, Any] = {"status": status.value, "duration_s": round(duration_s, 3)}
    if outcome is not None:
        totals = outcome.totals
        told |= {"steps": totals.steps, "calls": totals.calls, "tokens": totals.usage.total_tokens, "cost_usd": totals.cost_usd}
        if outcome.failure is not None:
            told["failure_class"] = outcome.failure.failure_class
    log.info(names.EVENT_RUN_ENDED, **told)
    if (metrics := signals().metrics) is not None:
        metrics.run_ended(agent, status.value, duration_s)
