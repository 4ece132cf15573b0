"""A run told in full: its steps, its sub-runs, its totals, its place in the Temporal Web UI."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from temporalio.client import WorkflowQueryFailedError
from temporalio.service import RPCError, RPCStatusCode

from client import results, visibility
from client.backend import Backend
from client.steps import StepReport, read_steps
from client.temporal import is_outage
from client.visibility import RunSummary
from state import budgets, forks, limits, runs
from workflows.agent_run import AgentRun
from workflows.contracts.errors import FailureClass, RunError, RunFailedError, UnavailableError, UnknownRunError
from workflows.contracts.messages import Frozen, Usage
from workflows.contracts.runs import Approval, RunStatus, RunView

VIEW_TIMEOUT_S: Final = 3.0
"""How long a run is given to tell of itself: its worker may be away."""


class ReportTotals(Frozen):
    """What a run used, its sub-runs included."""

    steps: int
    model_calls: int
    """Steps that a model answered."""
    attempts: int
    """Requests that went out to models, failed ones included."""
    tool_calls: int
    usage: Usage
    cost_usd: Decimal
    unknown_usd: Decimal
    """The part of `cost_usd` that was charged for attempts whose outcome nobody knows."""
    reserved_usd: Decimal
    """Held back for calls that are in the air."""
    cost_limit_usd: Decimal


class RunReport(Frozen):
    """All there is to tell of a run."""

    id: str
    agent: str
    status: RunStatus | None
    """None when Temporal no longer keeps the run, or never got it."""
    tenant: str
    user: str | None
    idempotency_key: str | None
    definition_hash: str
    failure_class: FailureClass | None = None
    failure: str | None = None
    """Why it failed, or why it is parked."""
    doing: str | None = None
    """What it does at this moment, where a worker could be asked."""
    delayed: str | None = None
    """What a step of it waits for, and about how long; it goes on by itself."""
    approvals: tuple[Approval, ...] = ()
    """The tool calls that wait for a yes or no."""
    parent_run_id: str | None = None
    origin: str | None = None
    """In words, the run that it was forked or reborn from; the steps that both share cost it nothing."""
    created_at: datetime
    ended_at: datetime | None = None
    steps: tuple[StepReport, ...]
    sub_runs: tuple[RunReport, ...] = ()
    totals: ReportTotals
    simulated: bool
    """A model's answer in it, or in a sub-run, was simulated."""
    url: str | None = None


async def report(backend: Backend, run_id: str) -> RunReport:
    """Read a run and, below it, its sub-runs.

    Raises:
        UnknownRunError: the database has no such run.
    """
    books = await runs.books(backend.database, run_id)
    steps = await read_steps(backend.database, run_id)
    children = [await report(backend, child) for child in await runs.children(backend.database, run_id)]
    summary = await _summary(backend, run_id)
    origin = (await forks.origins(backend.database, [run_id])).get(run_id)
    now = await _now(backend, summary)
    return RunReport(
        id=run_id,
        agent=books.agent,
        status=summary.status if summary else None,
        tenant=books.tenant,
        user=books.user,
        idempotency_key=books.idempotency_key,
        definition_hash=books.definition_hash,
        failure_class=now.failure_class,
        failure=now.failure,
        doing=now.doing,
        delayed=await _delayed(backend, run_id),
        approvals=now.approvals,
        parent_run_id=books.parent_run_id,
        origin=origin.words() if origin else None,
        created_at=books.created_at,
        ended_at=summary.ended_at if summary else None,
        steps=steps,
        sub_runs=tuple(children),
        totals=_totals(steps, children, books),
        simulated=any(step.simulated for step in steps) or any(child.simulated for child in children),
        url=backend.settings.run_url(run_id),
    )


async def _delayed(backend: Backend, run_id: str) -> str | None:
    """A slot, or room in a budget, that a step waits for; the database knows, since a step that waits is in no worker."""
    for wait in await limits.waiting(backend.database, run_id):
        return f"step {wait.step} is delayed, about {max(0.0, wait.expected_s):.0f} s: {wait.limit}"
    for waits in await budgets.waiting(backend.database, run_id):
        return f"step {waits.step} is delayed, about {waits.left_s:.0f} s: budget {waits.budget}"
    return None


def _totals(steps: tuple[StepReport, ...], children: list[RunReport], books: runs.Books) -> ReportTotals:
    models = [step for step in steps if step.kind in ("model", "summary")]
    usage = Usage()
    for each in [step.usage for step in models] + [child.totals.usage for child in children]:
        usage += each
    return ReportTotals(
        steps=sum(step.kind != "input" for step in steps) + sum(child.totals.steps for child in children),
        model_calls=sum(step.done for step in models) + sum(child.totals.model_calls for child in children),
        attempts=sum(step.attempts for step in models) + sum(child.totals.attempts for child in children),
        tool_calls=sum(step.kind == "tool" for step in steps) + sum(child.totals.tool_calls for child in children),
        usage=usage,
        cost_usd=books.spent_usd,
        unknown_usd=books.unknown_usd,
        reserved_usd=books.reserved_usd,
        cost_limit_usd=books.cost_limit_usd,
    )


async def _summary(backend: Backend, run_id: str) -> RunSummary | None:
    try:
        return await visibility.summary(backend, run_id)
    except UnknownRunError:
        return None


async def view(backend: Backend, run_id: str) -> RunView:
    """The run as it tells of itself.

    Raises:
        UnavailableError: no worker answers for it.
    """
    try:
        return await backend.handle(run_id).query(AgentRun.view, rpc_timeout=timedelta(seconds=VIEW_TIMEOUT_S))
    except WorkflowQueryFailedError as error:
        raise UnavailableError(f"Run {run_id} cannot be asked: {error.message}.") from error
    except RPCError as error:
        if is_outage(error) or error.status is RPCStatusCode.FAILED_PRECONDITION:  # no worker has asked for work lately
            raise UnavailableError(f"No worker answers for run {run_id} ({error.message}): is one running?") from error
        raise


@dataclass(frozen=True, slots=True)
class _Now:
    """What only Temporal, or the run itself, can tell."""

    failure_class: FailureClass | None = None
    failure: str | None = None
    doing: str | None = None
    approvals: tuple[Approval, ...] = ()


async def _now(backend: Backend, summary: RunSummary | None) -> _Now:
    if summary is None or summary.status is RunStatus.COMPLETED:
        return _Now()
    if summary.status in visibility.ENDED:
        return await _how_it_ended(backend, summary)
    try:
        told = await view(backend, summary.id)
    except (UnavailableError, RPCError):
        return _Now(failure_class=summary.failure_class)
    parked = told.parked
    return _Now(
        failure_class=parked.failure_class if parked else None,
        failure=f"step {parked.step}, {parked.what}: {parked.cause}" if parked else None,
        doing=told.doing,
        approvals=told.approvals,
    )


async def _how_it_ended(backend: Backend, summary: RunSummary) -> _Now:
    try:
        outcome = await results.wait_outcome(backend, summary.id, VIEW_TIMEOUT_S)
    except RunFailedError as error:
        return _Now(failure_class=error.failure_class or summary.failure_class, failure=str(error))
    except (RunError, TimeoutError):
        return _Now(failure_class=summary.failure_class)
    failure = outcome.failure
    return _Now(
        failure_class=failure.failure_class if failure else None,
        failure=f"step {failure.step}, {failure.what}: {failure.cause}" if failure else None,
    )
