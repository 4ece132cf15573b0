"""Runs as Temporal knows them: where each stands, and which there are."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from temporalio.client import WorkflowExecution, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from client.backend import Backend
from client.temporal import calls_named
from state import forks
from workflows import run_view
from workflows.contracts import names
from workflows.contracts.errors import FailureClass, InvalidInputError, UnknownRunError
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
    RunStatus.CANCELLED: "(ExecutionStatus = 'Canceled' OR AgentStatus = 'cancelled')",
    RunStatus.TERMINATED: "ExecutionStatus = 'Terminated'",
    RunStatus.TIMED_OUT: "ExecutionStatus = 'TimedOut'",
}

_PAGE: Final = 500


def read_status(status: RunStatus | str | None) -> RunStatus | None:
    """A status by its name.

    Raises:
        InvalidInputError: there is none of that name; names those there are.
    """
    try:
        return None if status is None else RunStatus(status)
    except ValueError as error:
        raise InvalidInputError(f"There is no status {status!r}; there are {', '.join(RunStatus)}.") from error


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
    origin: str | None = None
    """In words, the run that it was forked or reborn from."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs to list; None leaves a choice open."""

    status: RunStatus | None = None
    agent: str | None = None
    tenant: str | None = None
    user: str | None = None
    sub_runs: bool = False

    def query(self) -> str:
        """The same for Temporal, as closely as its query language can say it."""
        parts = [f"WorkflowType = '{names.AGENT_RUN}'"]
        if self.status is not None:
            running = f"ExecutionStatus = 'Running' AND {names.AGENT_STATUS} = '{self.status.value}'"
            parts.append(_EXECUTIONS.get(self.status) or running)
        for attribute, value in ((names.AGENT_NAME, self.agent), (names.TENANT, self.tenant), (names.AGENT_USER, self.user)):
            if value is not None:
                parts.append(_compared(attribute, value))
        if not self.sub_runs:
            parts.append("ParentWorkflowId IS NULL")
        return " AND ".join(parts)

    def fits(self, found: RunSummary) -> bool:
        """Whether a run is really one of them: the query may have been wider."""
        pairs = ((self.agent, found.agent), (self.tenant, found.tenant), (self.user, found.user))
        return all(wanted is None or wanted == value for wanted, value in pairs)


async def summaries(backend: Backend, wanted: Wanted, limit: int) -> AsyncIterator[RunSummary]:
    """The runs that are wanted, newest first, at most `limit`."""
    left = limit
    with calls_named(backend.settings):
        async for found in backend.temporal.list_workflows(wanted.query(), page_size=min(limit, _PAGE)):
            each = _summary(backend, found)
            if wanted.fits(each):
                yield each
                left -= 1
            if left <= 0:
                return


async def listed(backend: Backend, wanted: Wanted, limit: int) -> tuple[RunSummary, ...]:
    """The same at once, each with where it was forked or reborn from, which only the database knows."""
    found = [each async for each in summaries(backend, wanted, limit)]
    origins = await forks.origins(backend.database, [each.id for each in found])
    return tuple(each.model_copy(update={"origin": origins[each.id].words()}) if each.id in origins else each for each in found)


def _compared(attribute: str, value: str) -> str:
    """Temporal's parser cannot take a text with a backslash or a double quote, however it is escaped: there its head is asked for."""
    head = re.split(r'[\\"]', value, maxsplit=1)[0]
    literal = "'" + head.replace("'", "''") + "'"
    return f"{attribute} = {literal}" if head == value else f"{attribute} STARTS_WITH {literal}"


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
    if found.status is WorkflowExecutionStatus.COMPLETED and told in (RunStatus.FAILED, RunStatus.CANCELLED):
        return told  # a sub-run tells its caller of its failure, a run that a person stopped tells of its end, and so they complete
    return _CLOSED[found.status]
