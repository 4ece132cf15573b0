"""Writing a run into the database and handing it over to Temporal."""

from __future__ import annotations

import contextlib
from datetime import timedelta

from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from client.backend import Backend
from client.temporal import calls_named
from state import runs
from workflows import run_view
from workflows.agent_run import AgentRun
from workflows.contracts import policies
from workflows.contracts.agents import AgentDefinition, Limits, PinnedAgent
from workflows.contracts.inference import Priority
from workflows.contracts.messages import Message, Role
from workflows.contracts.redaction import redact
from workflows.contracts.runs import RunInput


async def begin(
    backend: Backend, new: runs.NewRun, text: str, current: AgentDefinition, limits: Limits | None, priority: Priority | None
) -> str:
    """Write the run, then have Temporal start it: a crash in between is mended by the repeated start. Gives the run's id."""
    books = await runs.create(backend.database, new, Message(role=Role.USER, text=text))
    pinned = await _pin(backend, current, books.definition_hash)
    if limits is not None:
        pinned = pinned.model_copy(update={"limits": limits})
    given = RunInput(run_id=books.run_id, agent=pinned, tenant=new.tenant, user=new.user, priority=priority or current.priority)
    await launch(backend, given, text)
    return books.run_id


async def _pin(backend: Backend, current: AgentDefinition, definition_hash: str) -> PinnedAgent:
    """The pin that the run's row holds: a start that is repeated after a deploy goes on with the first one's definition."""
    if definition_hash == current.content_hash():
        return current.pin()
    return (await backend.definitions.by_hash(definition_hash)).pin()


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
