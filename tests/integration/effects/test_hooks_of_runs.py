"""Hooks in whole runs: what they ask is put before people, and what people say is what the model is told."""

from __future__ import annotations

from activities.inference.providers.scripted import tool_call
from tests.integration.effects.conftest import WITHIN_S, Open, status_of
from tests.integration.effects.test_effects_of_runs import last_result
from tests.integration.effects.till import open_till
from workflows.contracts.errors import FailureClass
from workflows.contracts.hooks import Ask, Deny
from workflows.contracts.runs import RunStatus


async def test_a_hook_denies_a_call_and_the_model_is_told_why(opened: Open, order: str) -> None:
    till = open_till()
    till.before = Deny("Nothing is shipped on Sundays.")
    env = await opened(tool_call("ship", order_id=order), last_result)
    assert await env.run("cashier", "Ship.") == "Not run: Nothing is shipped on Sundays."
    assert till.did == []


async def test_a_hook_asks_before_a_call_and_with_a_yes_it_is_made(opened: Open, order: str) -> None:
    till = open_till()
    till.before = Ask("a new customer")
    env = await opened(tool_call("ship", order_id=order), last_result)
    run = await env.start("cashier", "Ship.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    (waiting,) = (await run.view()).approvals
    assert (waiting.tool, waiting.reason, till.did) == ("ship", "a new customer", [])
    await run.approve(by="ann")
    assert await run.result(timeout_s=WITHIN_S) == f"shipped {order}"
    assert till.did == [f"ship {order}"]


async def test_a_hook_asks_about_a_result_and_with_a_no_the_model_never_sees_it(opened: Open, order: str) -> None:
    till = open_till()
    till.after = Ask("it may be private")
    env = await opened(tool_call("ship", order_id=order), last_result)
    run = await env.start("cashier", "Ship.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    (waiting,) = (await run.view()).approvals
    assert (waiting.kind, waiting.reason, till.did) == ("result", "it may be private", [f"ship {order}"])
    await run.reject(reason="It is.", by="ann")
    answer = await run.result(timeout_s=WITHIN_S)
    assert answer.startswith("A person withheld this result.")
    assert "It is." in answer
    assert order not in answer


async def test_a_broken_guard_parks_the_run_and_when_it_is_mended_the_run_goes_on(opened: Open, order: str) -> None:
    till = open_till()
    till.before = RuntimeError("no calendar")
    env = await opened(tool_call("ship", order_id=order), last_result)
    run = await env.start("cashier", "Ship.")
    await status_of(run, RunStatus.PARKED)
    parked = (await run.view()).parked
    assert parked is not None
    assert parked.failure_class is FailureClass.TOOL
    assert "look_at_call raised RuntimeError: no calendar" in parked.cause
    assert till.did == []
    till.before = None
    await run.redrive()
    assert await run.result(timeout_s=WITHIN_S) == f"shipped {order}"


async def test_a_person_may_give_a_result_in_place_of_one_that_a_broken_guard_holds_back(opened: Open, order: str) -> None:
    till = open_till()
    till.after = RuntimeError("no list of secrets")
    env = await opened(tool_call("ship", order_id=order), last_result)
    run = await env.start("cashier", "Ship.")
    await status_of(run, RunStatus.PARKED)
    await run.redrive(action="skip", result="It is on its way.")
    assert await run.result(timeout_s=WITHIN_S) == "It is on its way."
    assert till.did == [f"ship {order}"]
