"""Handing a run that is in the database over to Temporal."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from client.backend import Backend
from client.temporal import calls_named
from workflows import run_view
from workflows.agent_run import AgentRun
from workflows.contracts import policies
from workflows.contracts.redaction import redact
from workflows.contracts.runs import RunInput


async def launch(backend: Backend, given: RunInput, text: str) -> None:
    """Have Temporal start the run; one that it has already, or had, is left as it is.

    Args:
        backend: the client's means.
        given: what the run is started with.
        text: what it was asked, for its line in the list of runs.
    """
    with calls_named(backend.settings), contextlib.suppress(WorkflowAlreadyStartedError):
        await backend.temporal.start_workflow(
            AgentRun.run,
            given,
            id=given.run_id,
            task_queue=backend.settings.task_queue,
            id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            task_timeout=timedelta(seconds=policies.WORKFLOW_TASK_S),
            search_attributes=run_view.search_attributes(given),
            static_summary=run_view.static_summary(given, redact(text)),
            static_details=run_view.static_details(given),
        )
