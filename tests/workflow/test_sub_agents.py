"""An agent may call another as a tool, or hand the conversation over to it."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from tests.workflow.scripted import (
    Engine,
    HangsUntilCancelled,
    Script,
    agent,
    asks_for,
    call,
    call_agent,
    fails,
    final,
    hand_over,
    no_call,
)
from workflows.agent_run import AgentRun
from workflows.contracts import names
from workflows.contracts.agents import Limits
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Usage
from workflows.contracts.runs import Redrive, RunStatus
from workflows.contracts.steps import ModelCallRequest, TurnKind
from workflows.tool_steps import MAX_DEPTH

HELPER = agent("helper")


async def test_a_sub_agent_runs_as_a_child_and_its_answer_is_given_by_reference(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call_agent(HELPER)), final())
    script.model("helper", asks_for(call("find_order")), final("it is on its way"))
    handle = await engine.start(agent(), user="u1", tenant="t1")
    await engine.result(handle)

    child = f"{handle.id}.2"
    asked = [request for request in script.asked if request.agent.name == "helper"]
    assert [(request.run_id, request.step, request.tenant) for request in asked] == [(child, 1, "t1"), (child, 3, "t1")]
    assert script.ran[0].user == "u1"
    (told,) = script.asked[-1].appendices
    assert (told.step, told.child_run_id, told.text, told.is_error) == (2, child, "it is on its way", False)
    described = await engine.client.get_workflow_handle(child).describe()
    assert described.parent_id == handle.id


async def test_a_sub_agents_cost_and_tokens_count_upwards_and_its_steps_are_its_own(engine: Engine, script: Script) -> None:
    usage = Usage(input_tokens=1_000, output_tokens=100)
    script.model("support", asks_for(call_agent(HELPER)), final())
    script.model("helper", final(usage=usage, cost_usd=Decimal("0.25"), unknown_usd=Decimal("0.05")))
    totals = (await engine.run(agent())).totals
    assert totals.usage == Usage(input_tokens=1_200, output_tokens=120)
    assert (totals.cost_usd, totals.unknown_usd) == (Decimal("0.252"), Decimal("0.05"))
    assert (totals.calls, totals.steps) == (2, 3)


async def test_a_sub_agents_cost_counts_against_its_callers_limit(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call_agent(HELPER)), final())
    script.model("helper", final(cost_usd=Decimal("0.6")))
    handle = await engine.start(agent(cost_usd=Decimal("0.5")))
    view = await engine.parked(handle)
    assert view.parked is not None
    assert (view.parked.failure_class, view.parked.what) == (FailureClass.LIMIT, "run support")


async def test_sub_agents_of_one_turn_run_side_by_side(engine: Engine, script: Script) -> None:
    together = asyncio.Barrier(2)

    async def waits_for_the_other(request: ModelCallRequest) -> Any:
        async with asyncio.timeout(10):
            await together.wait()
        return final(request.agent.name)(request)

    script.model("support", asks_for(call_agent(HELPER), call_agent(agent("other"))), final())
    script.model("helper", waits_for_the_other)
    script.model("other", waits_for_the_other)
    await engine.run(agent())
    assert [told.text for told in sorted(script.asked[-1].appendices, key=lambda told: told.step)] == ["helper", "other"]


async def test_a_cancelled_run_cancels_its_sub_agents_down_to_their_running_activity(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", asks_for(call_agent(HELPER)))
    script.model("helper", asks_for(call("slow")))
    script.tool("slow", hanging)
    handle = await engine.start(agent())
    await engine.until(handle, lambda _: hanging.began.is_set())

    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failure:
        await engine.result(handle)
    assert isinstance(failure.value.cause, CancelledError)
    assert hanging.cancelled.is_set()
    child = engine.client.get_workflow_handle_for(AgentRun.run, f"{handle.id}.2")
    assert (await child.query(AgentRun.view)).status is RunStatus.CANCELLED


async def test_a_sub_agent_that_is_cancelled_alone_parks_its_caller(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", asks_for(call_agent(HELPER)), final())
    script.model("helper", hanging, final("second try"))
    handle = await engine.start(agent())
    await engine.until(handle, lambda _: hanging.began.is_set())

    await engine.client.get_workflow_handle(f"{handle.id}.2").cancel()
    view = await engine.parked(handle)
    assert view.parked is not None
    assert (view.parked.what, view.parked.step) == ("agent helper", 2)
    assert "cancel" in view.parked.cause.lower()

    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert script.asked[-1].appendices[0].text == "second try"


async def test_a_sub_agents_limit_is_told_to_its_caller_and_parks_nobody(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call_agent(agent("helper", calls=1))), final())
    script.model("helper", asks_for(call("find_order")), final("never asked"))
    outcome = await engine.run(agent())
    assert outcome.status is RunStatus.COMPLETED
    (told,) = script.asked[-1].appendices
    assert (told.text, told.is_error) == ("The agent helper stopped: limit calls: 1 used", True)
    assert outcome.totals.cost_usd == Decimal("0.003"), "what the sub-agent spent before its end counts"


async def test_a_sub_agent_without_budget_for_its_summary_tells_its_caller(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call_agent(HELPER)), final())
    script.model("helper", no_call(TurnKind.CONTEXT_FULL, "no room"))
    script.compacts = fails(FailureClass.LIMIT, "limit cost_usd: the next call could pass it")
    outcome = await engine.run(agent())
    assert outcome.status is RunStatus.COMPLETED
    assert script.asked[-1].appendices[0].text == "The agent helper stopped: limit cost_usd: the next call could pass it"


async def test_a_sub_agent_that_a_person_aborts_is_told_to_its_caller(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call_agent(HELPER)), final())
    script.model("helper", fails(FailureClass.CALLER, "the provider refused"))
    handle = await engine.start(agent())
    child = engine.client.get_workflow_handle_for(AgentRun.run, f"{handle.id}.2")
    await engine.parked(child)
    await child.signal(names.REDRIVE, Redrive(action="abort"))
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert script.asked[-1].appendices[0].text == "The agent helper stopped: the provider refused"


async def test_agents_call_agents_only_so_deep(engine: Engine, script: Script) -> None:
    script.model("helper", *[asks_for(call_agent(HELPER))] * (MAX_DEPTH + 1), then=final())
    outcome = await engine.run(HELPER)
    assert outcome.status is RunStatus.COMPLETED
    assert {request.run_id.count(".") for request in script.asked} == set(range(MAX_DEPTH + 1))
    (refused,) = [told for request in script.asked for told in request.appendices if told.is_error]
    assert refused.text == f"Agents may call agents at most {MAX_DEPTH} deep; answer yourself."


async def test_waiting_for_a_person_in_a_sub_agent_does_not_count_as_its_callers_time(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call_agent(HELPER)), final())
    script.model("helper", asks_for(call("refund", needs_approval=True)), final())
    handle = await engine.start(agent(time_s=2), skip_time=False)
    child = engine.client.get_workflow_handle_for(AgentRun.run, f"{handle.id}.2")
    await engine.until(child, lambda view: bool(view.approvals))
    await asyncio.sleep(2)  # a run with an open child skips no time
    await child.signal(names.APPROVE, {})
    outcome = await engine.result(handle)
    assert outcome.status is RunStatus.COMPLETED
    assert outcome.waited_s >= 2


async def test_a_hand_over_changes_the_agent_and_keeps_the_runs_limits(engine: Engine, script: Script) -> None:
    refunds = agent("refunds", model="fast", steps=9, cost_usd=Decimal(9))
    script.model("support", asks_for(call("find_order"), hand_over(refunds)))
    script.model("refunds", final("paid back"))
    outcome = await engine.run(agent(steps=12, cost_usd=Decimal("0.5")))

    assert (outcome.agent, outcome.preview, outcome.answer_step) == ("refunds", "paid back", 4)
    last = script.asked[-1]
    assert (last.agent.name, last.agent.model, last.agent.definition_hash) == ("refunds", "fast", refunds.definition_hash)
    assert last.agent.limits == Limits(steps=12, cost_usd=Decimal("0.5"))
    (told,) = last.appendices
    assert (told.step, told.text) == (3, "You are now refunds; the conversation so far is above.")
    assert last.run_id == script.asked[0].run_id, "a hand-over is no new run"
    assert outcome.totals.steps == 4


async def test_the_conversation_is_handed_over_to_one_agent_at_a_time(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(hand_over(agent("refunds")), hand_over(agent("sales"))))
    script.model("refunds", final())
    outcome = await engine.run(agent())
    assert outcome.agent == "refunds"
    told = {appendix.step: (appendix.text, appendix.is_error) for appendix in script.asked[-1].appendices}
    assert told[3] == ("The conversation is handed over to one agent at a time.", True)
