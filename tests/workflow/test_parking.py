"""What cannot go on is parked where a person can see it, and goes on from that very step."""

from __future__ import annotations

from dataclasses import replace

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError

from tests.workflow.scripted import Engine, HangsUntilCancelled, Script, agent, asks_for, call, call_agent, fails, final
from workflows.agent_run import AgentRun
from workflows.contracts import names, policies
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import Redrive, RunOutcome, RunStatus
from workflows.run_view import AGENT_STATUS, FAILURE_CLASS

PARKING = [
    FailureClass.QUOTA,
    FailureClass.CALLER,
    FailureClass.CONTEXT,
    FailureClass.MODEL_BEHAVIOUR,
    FailureClass.TOOL,
    FailureClass.UNKNOWN_OUTCOME,
    FailureClass.LIMIT,
]
"""The classes whose failures are not retried."""


@pytest.mark.parametrize("failure_class", PARKING)
async def test_a_failing_step_is_parked_at_once_with_class_and_cause(engine: Engine, script: Script, failure_class: FailureClass) -> None:
    script.model("support", fails(failure_class, "it went wrong"), final())
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.status is RunStatus.PARKED
    assert view.parked is not None
    assert view.parked.model_dump(exclude={"chain"}) == {
        "failure_class": failure_class,
        "cause": "it went wrong",
        "step": 1,
        "what": "call_model smart",
        "letter": 1,
    }
    assert len(script.asked) == 1

    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).answer_step == 1


async def test_a_bug_of_ours_is_tried_a_few_times_and_then_parked(engine: Engine, script: Script) -> None:
    def breaks(_: object) -> str:
        raise ZeroDivisionError("a bug")

    script.model("support", asks_for(call("broken")), final())
    script.tool("broken", breaks, breaks, breaks, lambda _: "mended")
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert (view.parked.failure_class, view.parked.cause) == (FailureClass.CODE, "ZeroDivisionError: a bug")
    assert len(script.ran) == 3
    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).status is RunStatus.COMPLETED


async def test_a_transient_failure_is_retried_until_it_passes(engine: Engine, script: Script) -> None:
    script.model("support", *[fails(FailureClass.TRANSIENT)] * 3, final())
    outcome = await engine.run(agent())
    assert (outcome.status, len(script.asked), outcome.totals.calls) == (RunStatus.COMPLETED, 4, 1)


async def test_a_transient_failure_that_does_not_pass_is_parked_with_its_cause(
    engine: Engine, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retries' time is over long before the run's own is, however slow the machine."""
    monkeypatch.setattr(policies, "MODEL_CALL", replace(policies.MODEL_CALL, schedule_to_close_s=20))
    script.model("support", then=fails(FailureClass.TRANSIENT, "overloaded"))
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.TRANSIENT
    assert view.parked.cause.startswith("overloaded")
    assert len(script.asked) > 2


async def test_a_parked_tool_call_can_be_skipped_with_a_result(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("a"), call("refund")), final())
    script.tool("refund", fails(FailureClass.UNKNOWN_OUTCOME))
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert (view.parked.what, view.parked.step) == ("run_tool refund", 3)

    await handle.signal(names.REDRIVE, Redrive(action="skip", result="paid back by hand"))
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    (told,) = script.asked[-1].appendices
    assert (told.step, told.call_id, told.text, told.is_error) == (3, "call_3", "paid back by hand", False)
    assert [request.name for request in script.ran] == ["a", "refund"]


async def test_a_skip_without_a_result_says_so_to_the_model(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund")), final())
    script.tool("refund", fails(FailureClass.TOOL))
    handle = await engine.start(agent())
    await engine.parked(handle)
    await handle.signal(names.REDRIVE, Redrive(action="skip"))
    await engine.result(handle)
    assert script.asked[-1].appendices[0].text == "A person skipped this call."


async def test_a_model_call_cannot_be_skipped(engine: Engine, script: Script) -> None:
    script.model("support", fails(FailureClass.CALLER), final())
    handle = await engine.start(agent())
    before = await engine.parked(handle)
    await handle.signal(names.REDRIVE, Redrive(action="skip", result="made up"))
    assert await engine.until(handle, lambda _: True) == before
    assert len(script.asked) == 1
    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).preview == "done"


async def test_an_abort_fails_the_run_with_its_class_and_its_totals(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("find_order")), fails(FailureClass.QUOTA, "no credit left"))
    handle = await engine.start(agent())
    await engine.parked(handle)
    await handle.signal(names.REDRIVE, Redrive(action="abort"))
    with pytest.raises(WorkflowFailureError) as failure:
        await engine.result(handle)

    error = failure.value.cause
    assert isinstance(error, ApplicationError)
    assert (error.type, error.message) == ("quota", "call_model smart: no credit left")
    outcome = RunOutcome.model_validate(error.details[0])
    assert (outcome.status, outcome.totals.calls) == (RunStatus.FAILED, 1)
    assert outcome.failure is not None
    assert outcome.failure.step == 3
    assert (await handle.query(AgentRun.view)).status is RunStatus.FAILED
    found = (await handle.describe()).typed_search_attributes
    assert (found.get(AGENT_STATUS), found.get(FAILURE_CLASS)) == ("failed", "quota")


async def test_an_abort_does_not_wait_for_the_other_calls_of_the_turn(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    helper = agent("helper")
    script.model("support", asks_for(call("bad"), call("slow"), call("refund", needs_approval=True), call_agent(helper)))
    script.model("helper", fails(FailureClass.CALLER))
    script.tool("bad", fails(FailureClass.TOOL, "out of order"))
    script.tool("slow", hanging)
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: view.parked is not None and bool(view.approvals) and hanging.began.is_set())
    child = engine.client.get_workflow_handle_for(AgentRun.run, f"{handle.id}.5")
    await engine.parked(child)

    await handle.signal(names.REDRIVE, Redrive(action="abort"))
    with pytest.raises(WorkflowFailureError) as failure:
        await engine.result(handle)
    assert isinstance(failure.value.cause, ApplicationError)
    assert failure.value.cause.message == "run_tool bad: out of order"
    assert hanging.cancelled.is_set()
    assert (await child.query(AgentRun.view)).status is RunStatus.CANCELLED
    view = await handle.query(AgentRun.view)
    assert (view.status, view.approvals, view.parked) == (RunStatus.FAILED, (), None)


async def test_one_redrive_is_for_every_step_that_is_parked(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("a"), call("b")), final())
    for name in "ab":
        script.tool(name, fails(FailureClass.TOOL), lambda request: request.name)
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: view.parked is not None and len(script.ran) == 2)
    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert len(script.ran) == 4


async def test_a_redrive_may_change_the_model_and_the_limits(engine: Engine, script: Script) -> None:
    script.model("support", fails(FailureClass.QUOTA), final())
    handle = await engine.start(agent(steps=7))
    await engine.parked(handle)
    await handle.signal(names.REDRIVE, Redrive(model="anthropic:other"))
    await engine.result(handle)
    assert [request.agent.model for request in script.asked] == ["smart", "anthropic:other"]
    assert script.asked[-1].agent.limits.steps == 7, "limits that the redrive does not name stay"


async def test_a_redrive_of_a_run_that_is_not_parked_is_refused_without_harm(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund", needs_approval=True)), fails(FailureClass.CALLER), final())
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: bool(view.approvals))
    await handle.signal(names.REDRIVE, Redrive(action="abort", model="other"))
    await handle.signal(names.APPROVE, {})

    view = await engine.parked(handle)
    assert view.status is RunStatus.PARKED, "an order given before there was anything to order is none"
    await handle.signal(names.REDRIVE, Redrive())
    await engine.result(handle)
    assert {request.agent.model for request in script.asked} == {"smart"}


async def test_a_ruling_on_an_unknown_outcome_reaches_the_tool(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund")), asks_for(call("refund")), final())
    unknown, broken = fails(FailureClass.UNKNOWN_OUTCOME), fails(FailureClass.TOOL)
    script.tool("refund", unknown, broken, unknown, lambda _: "paid back")
    handle = await engine.start(agent())
    for tries in (1, 2, 3):
        await engine.until(handle, lambda view, tries=tries: view.parked is not None and len(script.ran) == tries)
        await handle.signal(names.REDRIVE, Redrive())
    await engine.result(handle)
    assert [(request.step, request.rulings) for request in script.ran] == [(2, 0), (2, 1), (2, 1), (2, 2), (4, 0)], (
        "a retry of another failure is no ruling"
    )


async def test_a_retry_of_any_other_failure_is_no_ruling(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund")), final())
    script.tool("refund", fails(FailureClass.TOOL), lambda _: "paid back")
    handle = await engine.start(agent())
    await engine.parked(handle)
    await handle.signal(names.REDRIVE, Redrive())
    await engine.result(handle)
    assert [request.rulings for request in script.ran] == [0, 0]
