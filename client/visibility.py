"""Runs as Temporal knows them: where each stands, and which there are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Final

from temporalio.client import WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from client.backend import Backend
from client.temporal import calls_named
from workflows import run_view
from workflows.contracts import names
from workflows.contracts.errors import FailureClass, UnknownRunError
from workflows.contracts.messages import Frozen
from workflows.contracts.runs import RunStatus

_CLOSED: Final = {
    WorkflowExecutionStatus.COMPLETED: RunStatus.COMPLETED,
    WorkflowExecutionStatus.FAILED: RunStatus.FAILED,
    WorkflowExecutionStatus.CANCELED: RunStatus.CANCELLED,
    WorkflowExecutionStatus.TERMINATED: RunStatus.TERMINATED,
    WorkflowExecutionStatus.TIMED_OUT: RunStatus.TIMED_OUT,
}
_EXECUTIONS: Final = {
    RunStatus.COMPLETED: "ExecutionStatus = 'Completed' AND AgentStatus = 'completed'",
    RunStatus.FAILED: "(ExecutionStatus = 'Failed' OR AgentStatus = 'failed')",
    RunStatus.CANCELLED: "ExecutionStatus = 'Canceled'",
    RunStatus.TERMINATED: "ExecutionStatus = 'Terminated'",
    RunStatus.TIMED_OUT: "ExecutionStatus = 'TimedOut'",
}

ENDED: Final = frozenset(_CLOSED.values())
"""The statuses that do not change any more."""


class RunSummary(Frozen):
    """One line of the list of runs."""

    id: str
    agent: str
    status: RunStatus
    tenant: str
    user: str | None = None
    model: str
    cost_usd: Decimal | None = None
    """Written when the run ends; a run that goes on says it by `show`."""
    failure_class: FailureClass | None = None
    parent_run_id: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    url: str | None = None


async def summary(backend: Backend, run_id: str) -> RunSummary:
    """Where a run stands now.

    Raises:
        UnknownRunError: Temporal has no such run (any more).
    """
    try:
        with calls_named(backend.settings):
            found = await backend.handle(run_id).describe()
    except RPCError as error:
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise UnknownRunError(f"Temporal has no run {run_id!r}: `holdfast runs` lists them.") from error
        raise
    return _summary(backend, found)


async def summaries(backend: Backend, query: str, limit: int) -> AsyncIterator[RunSummary]:
    """The runs that a visibility query finds, newest first."""
    with calls_named(backend.settings):
        async for found in backend.temporal.list_workflows(query, limit=limit, page_size=min(limit, 500)):
            yield _summary(backend, found)


def query(*, status: RunStatus | None, agent: str | None, tenant: str | None, user: str | None, sub_runs: bool) -> str:
    """Temporal's query for the runs that fit all that is given."""
    parts = [f"WorkflowType = '{names.AGENT_RUN}'"]
    if status is not None:
        parts.append(_EXECUTIONS.get(status) or f"ExecutionStatus = 'Running' AND {names.AGENT_STATUS} = '{status.value}'")
    for attribute, value in ((names.AGENT_NAME, agent), (names.TENANT, tenant), (names.AGENT_USER, user)):
        if value is not None:
            parts.append(f"{attribute} = {quoted(value)}")
    if not sub_runs:
        parts.append("ParentWorkflowId IS NULL")
    return " AND ".join(parts)


def quoted(value: str) -> str:
    """A text as a literal of the query language, whatever is in it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _summary(backend: Backend, found: WorkflowExecution) -> RunSummary:
    attributes = found.typed_search_attributes
    cost = attributes.get(run_view.COST_USD)
    failure = attributes.get(run_view.FAILURE_CLASS)
    return RunSummary(
        id=found.id,
        agent=attributes.get(run_view.AGENT_NAME) or "",
        status=_status(found),
        tenant=attributes.get(run_view.TENANT) or "",
        user=attributes.get(run_view.AGENT_USER),
        model=attributes.get(run_view.AGENT_MODEL) or "",
        cost_usd=None if cost is None else Decimal(repr(cost)),
        failure_class=FailureClass(failure) if failure in set(FailureClass) else None,
        parent_run_id=found.parent_id,
        started_at=found.start_time,
        ended_at=found.close_time,
        url=backend.settings.run_url(found.id),
    )


def _status(found: WorkflowExecution) -> RunStatus:
    """What Temporal itself says of the end counts; a run says of itself what it does while it goes on."""
    said = found.typed_search_attributes.get(run_view.AGENT_STATUS)
    told = RunStatus(said) if said in set(RunStatus) else RunStatus.RUNNING
    if found.status is None or found.status not in _CLOSED:
        return told if told not in ENDED else RunStatus.RUNNING
    if found.status is WorkflowExecutionStatus.COMPLETED and told is RunStatus.FAILED:
        return RunStatus.FAILED  # a sub-run tells its caller of its failure, and so completes
    return _CLOSED[found.status]
