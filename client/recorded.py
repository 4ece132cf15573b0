"""What a run was started with, and which turns it has recorded: all that another run needs to walk its steps again."""

from __future__ import annotations

from pydantic import ValidationError
from temporalio.service import RPCError, RPCStatusCode

from client.backend import Backend
from client.temporal import calls_named
from state import forks, runs
from workflows.contracts.agents import PinnedAgent, ToolKind
from workflows.contracts.runs import RunInput
from workflows.contracts.steps import ModelTurn


async def as_started(backend: Backend, run_id: str) -> RunInput:
    """What a run was started with; limits, and the definition, are those that held when its present execution began.

    Where Temporal keeps the run no more, the definition's limits are taken, with the limit on money that the books have.

    Raises:
        UnknownRunError: the database has no such run.
        UnavailableError: Temporal or the database does not answer.
    """
    told = await _told_by_temporal(backend, run_id)
    if told is not None:
        return without_carry(told)
    books = await runs.books(backend.database, run_id)
    definition = await backend.definitions.by_hash(books.definition_hash)
    pinned = definition.pin()
    limits = pinned.limits.model_copy(update={"cost_usd": books.cost_limit_usd})
    return RunInput(
        run_id=run_id,
        agent=pinned.model_copy(update={"limits": limits}),
        tenant=books.tenant,
        user=books.user,
        priority=definition.priority,
    )


def without_carry(told: RunInput) -> RunInput:
    """What would start the run at its beginning, by the agent and the limits that an execution that goes on was given."""
    carry = told.carry
    if carry is None:
        return told
    same = carry.agent.name == told.agent.name  # else the conversation was handed over, which its walk will do again
    agent = carry.agent if same else told.agent.model_copy(update={"limits": carry.agent.limits})
    return told.model_copy(update={"agent": agent, "carry": None})


async def turns(backend: Backend, run_id: str) -> list[ModelTurn]:
    """The answers that are recorded of a run, in order; summaries are left out."""
    recorded = await forks.recorded_turns(backend.database, run_id)
    return [ModelTurn.model_validate(turn) for turn in recorded if "through_step" not in turn]


def agent_at(first: PinnedAgent, before: list[ModelTurn]) -> PinnedAgent:
    """Whose step comes after these turns: the first agent's, or the one's that the conversation was handed over to."""
    agent = first
    for turn in before:
        handed = next((call.agent for call in turn.calls if call.kind is ToolKind.HANDOFF and call.agent), None)
        agent = handed.model_copy(update={"limits": agent.limits}) if handed else agent
    return agent


async def _told_by_temporal(backend: Backend, run_id: str) -> RunInput | None:
    try:
        with calls_named(backend.settings):
            async for event in backend.handle(run_id).fetch_history_events(page_size=1):
                payloads = event.workflow_execution_started_event_attributes.input.payloads
                (given,) = await backend.temporal.data_converter.decode(payloads, [RunInput])
                return given if isinstance(given, RunInput) else None
    except RPCError as error:
        if error.status not in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise
    except (ValidationError, ValueError, RuntimeError):  # started by a version whose input this one cannot read
        return None
    return None
