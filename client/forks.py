"""Forks: a new run that shares another one's recorded steps up to a chosen one, and goes its own way from there (docs/adr/0019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from client import agent_versions, inputs, recorded
from client.backend import Backend
from client.inputs import Input
from client.launching import launch
from client.steps import StepReport, read_steps
from state import forks, runs, transcripts
from state.forks import EditedCall, NewFork
from workflows.contracts.agents import Limits, PinnedAgent, ToolKind
from workflows.contracts.errors import InvalidInputError, RunStateError, UnknownRunError
from workflows.contracts.messages import Message, Role
from workflows.contracts.runs import RunInput
from workflows.contracts.steps import ModelTurn, ToolCallRef

DEFAULT_BY = "client"
STEPS_TOLD = 20


class ForkOptions(TypedDict, total=False):
    """What is different in a fork; what is left out stays."""

    input: Input | None
    """In place of what the run was first asked."""
    instructions: str | None
    """In place of the agent's own."""
    agent_version: str | None
    """The agent by another version or definition hash; `current`: as it is now."""
    model: str | None
    """A model or tier for the steps that are new."""
    limits: Limits | Mapping[str, Any] | None
    """For the steps that are new; a mapping changes those it names."""
    arguments: Mapping[str, Any] | None
    """Of the tool call at the step that the fork begins with; all of them."""
    new_run_id: str | None
    """An id of the caller's choice for the new run."""
    by: str
    """Who forks."""


@dataclass(frozen=True, slots=True)
class _Old:
    """The run that is forked."""

    given: RunInput
    turns: list[ModelTurn]
    message: Message


async def fork(backend: Backend, run_id: str, from_step: int, options: ForkOptions) -> str:
    """Start a run that shares another's steps before `from_step`; gives its id. `Orchestrator.fork` says what it raises."""
    steps = await _steps(backend, run_id)
    _check_step(run_id, steps, from_step)
    await refuse_undone(backend, run_id, from_step)
    old = await _old(backend, run_id)
    agent = await _agent(backend, old.given.agent, options)
    chosen, text = options.get("new_run_id"), options.get("input")
    new_id = inputs.check_run_id(chosen) if chosen is not None else inputs.new_run_id(agent.name)
    message = None if text is None else Message(role=Role.USER, text=inputs.read_input(text))
    arguments = options.get("arguments")
    new = NewFork(
        old=run_id,
        new=new_id,
        until_step=from_step,
        mode="fork",
        definition_hash=agent.definition_hash,
        cost_limit_usd=agent.limits.cost_usd,
        by=options.get("by") or DEFAULT_BY,
        message=message,
        edited=None if arguments is None else await _edited(backend, run_id, old, agent, from_step, arguments),
    )
    await forks.found(backend.database, new)
    origin = forks.told("fork", run_id, from_step)
    await launch(backend, walks_again(old.given, new_id, agent, origin), (message or old.message).text)
    return new_id


async def refuse_undone(backend: Backend, run_id: str, until_step: int) -> None:
    """Share no step whose effect was undone.

    Raises:
        RunStateError: there is one; says where a fork can begin.
    """
    undone = await forks.first_undone(backend.database, run_id, until_step)
    if undone is not None:
        raise RunStateError(
            f"What step {undone.step} of run {run_id} did ({undone.tool}) was undone, and a run that shares the step would take it for "
            f"done: `holdfast fork {run_id} --from-step {undone.step}`, or an earlier one."
        )


def walks_again(given: RunInput, new_id: str, agent: PinnedAgent, origin: str) -> RunInput:
    """What a run that walks recorded steps again is started with: its memories are among what it shares."""
    return RunInput(run_id=new_id, agent=agent, tenant=given.tenant, user=given.user, priority=given.priority, recall=False, origin=origin)


async def _steps(backend: Backend, run_id: str) -> list[StepReport]:
    await runs.books(backend.database, run_id)
    return [step for step in await read_steps(backend.database, run_id) if step.step > 0]


def _check_step(run_id: str, steps: Sequence[StepReport], from_step: int) -> None:
    """Everything before the step must be there: what it did could else be done twice."""
    open_step = next((place for place, step in enumerate(steps) if not step.done), None)
    there = steps if open_step is None else steps[: open_step + 1]
    if any(step.step == from_step for step in there) or (not steps and from_step == 1):
        return
    told = ", ".join(f"{step.step} {step.kind} {step.name}" for step in there[:STEPS_TOLD])
    more = f", … to {there[-1].step}" if len(there) > STEPS_TOLD else ""
    why = f"; step {there[-1].step} has no result yet" if open_step is not None and from_step > there[-1].step else ""
    raise InvalidInputError(f"Run {run_id} cannot be forked at step {from_step}{why}. Its steps are: {told or '1, not begun yet'}{more}.")


async def _old(backend: Backend, run_id: str) -> _Old:
    message = await transcripts.message_at(backend.database, run_id, 0)
    if message is None:
        raise UnknownRunError(f"The input of run {run_id} is not in this database: is DATABASE_URL the one it was started with?")
    return _Old(await recorded.as_started(backend, run_id), await recorded.turns(backend, run_id), message)


async def _agent(backend: Backend, pinned: PinnedAgent, options: ForkOptions) -> PinnedAgent:
    agent = await agent_versions.another(backend, pinned, version=options.get("agent_version"), instructions=options.get("instructions"))
    changes: dict[str, Any] = {"limits": agent_versions.changed_limits(agent.limits, options.get("limits"))}
    model = options.get("model")
    if model is not None:
        if not model.strip():
            raise InvalidInputError("model is empty: name a tier or a model.")
        changes["model"] = model
    return agent.model_copy(update=changes)


async def _edited(backend: Backend, run_id: str, old: _Old, agent: PinnedAgent, step: int, arguments: Mapping[str, Any]) -> EditedCall:
    """Other arguments for the call at the step, held against the schema that the fork's own agent has for the tool."""
    call = _call_at(old.turns, step)
    if call is None or call.kind not in (ToolKind.FUNCTION, ToolKind.HTTP):
        raise InvalidInputError(f"arguments: step {step} of run {run_id} is no tool call; fork it at one, or leave them out.")
    seated = recorded.agent_at(agent, [turn for turn in old.turns if turn.step < step])
    definition = await backend.definitions.by_hash(seated.definition_hash)
    spec = next((each for each in definition.tools if each.name == call.name), None)
    if spec is None:
        raise InvalidInputError(f"arguments: agent {definition.name}, version {definition.version}, has no tool {call.name}.")
    text, ref = agent_versions.checked_arguments(spec, arguments)
    return EditedCall(call.call_id, text, ref)


def _call_at(turns: Sequence[ModelTurn], step: int) -> ToolCallRef | None:
    return next((call for turn in turns for call in turn.calls if call.step == step), None)
