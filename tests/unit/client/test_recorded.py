"""What a run that walks recorded steps again is started with, from what is told of the old one."""

from __future__ import annotations

from client.recorded import agent_at, without_carry
from workflows.contracts.agents import AgentDefinition, Limits, PinnedAgent, ToolKind
from workflows.contracts.runs import Carry, RunInput
from workflows.contracts.steps import ModelTurn, ToolCallRef, TurnKind

RAISED = Limits(steps=99)


def pinned(name: str, **changes: object) -> PinnedAgent:
    return AgentDefinition.model_validate({"name": name, "instructions": "Work."} | changes).pin()


FIRST, SECOND = pinned("first"), pinned("second")


def carried(agent: PinnedAgent) -> RunInput:
    return RunInput(run_id="r", agent=FIRST, user="ann", carry=Carry(agent=agent, step=40))


def test_a_run_that_never_began_anew_is_started_as_it_was():
    told = RunInput(run_id="r", agent=FIRST, user="ann")

    assert without_carry(told) == told


def test_limits_model_and_version_that_were_changed_on_the_way_are_kept():
    changed = pinned("first", version="2", model="fast", limits=RAISED)

    found = without_carry(carried(changed))

    assert (found.agent, found.carry, found.user) == (changed, None, "ann")


def test_after_a_hand_over_the_walk_begins_with_the_first_agent_by_the_limits_that_hold_now():
    found = without_carry(carried(SECOND.model_copy(update={"limits": RAISED})))

    assert found.agent == FIRST.model_copy(update={"limits": RAISED})


def test_a_step_belongs_to_whom_the_conversation_was_handed_over_to():
    hand_over = ToolCallRef(step=2, call_id="c", name="hand_over_to_second", kind=ToolKind.HANDOFF, arguments_hash="", agent=SECOND)
    turns = [
        ModelTurn(kind=TurnKind.TOOLS, step=1, last_step=2, calls=(hand_over,)),
        ModelTurn(kind=TurnKind.FINAL, step=3, last_step=3),
    ]

    assert agent_at(FIRST, []) == FIRST
    assert agent_at(FIRST.model_copy(update={"limits": RAISED}), turns) == SECOND.model_copy(update={"limits": RAISED})
