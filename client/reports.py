"""A run told in full: its steps, its sub-runs, its totals, its place in the Temporal Web UI."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from client import visibility
from client.backend import Backend
from client.steps import StepReport, read_steps
from client.visibility import RunSummary
from state import runs
from workflows.contracts.errors import FailureClass, UnknownRunError
from workflows.contracts.messages import Frozen, Usage
from workflows.contracts.runs import RunStatus


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
    parent_run_id: str | None = None
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
    return RunReport(
        id=run_id,
        agent=books.agent,
        status=summary.status if summary else None,
        tenant=books.tenant,
        user=books.user,
        idempotency_key=books.idempotency_key,
        definition_hash=books.definition_hash,
        failure_class=summary.failure_class if summary else None,
        parent_run_id=books.parent_run_id,
        created_at=books.created_at,
        ended_at=summary.ended_at if summary else None,
        steps=steps,
        sub_runs=tuple(children),
        totals=_totals(steps, children, books),
        simulated=any(step.simulated for step in steps) or any(child.simulated for child in children),
        url=backend.settings.run_url(run_id),
    )


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
