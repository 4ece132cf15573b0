"""Effects of whole runs, on a real server: shared by two runs, undone at the end of one, ruled on when it is gone."""

from __future__ import annotations

import asyncio

import pytest

from activities.inference.providers.scripted import ScriptedAnswer, tool_call
from tests.integration.effects.conftest import WITHIN_S, Open, status_of, until
from tests.integration.effects.till import open_till
from workflows.contracts.errors import FailureClass, InvalidInputError, ToolError
from workflows.contracts.messages import ModelRequest
from workflows.contracts.runs import RunStatus


def last_result(request: ModelRequest) -> str:
    """What the model was told last."""
    return request.messages[-1].text


async def test_of_two_runs_side_by_side_one_does_it_and_the_other_waits_and_gets_its_result(opened: Open, order: str) -> None:
    till = open_till(gate=False)
    env = await opened(*[tool_call("pay", order_id=order)] * 2, last_result, last_result)
    runs = [await env.start("cashier", f"Pay {order}, {name}.") for name in ("ann", "bob")]
    await till.began.wait()
    till.gate.set()
    assert await asyncio.gather(*(run.result(timeout_s=WITHIN_S) for run in runs)) == [f"paid {order}"] * 2
    assert till.did == [f"pay {order}"]


async def test_when_the_first_of_two_fails_the_other_does_it(opened: Open, order: str) -> None:
    till = open_till(gate=False)
    till.fails = [ToolError("The till is closed.")]
    env = await opened(*[tool_call("pay", order_id=order)] * 2, last_result, last_result)
    runs = [await env.start("cashier", f"Pay {order}, {name}.") for name in ("ann", "bob")]
    await till.began.wait()
    till.gate.set()
    answers = await asyncio.gather(*(run.result(timeout_s=WITHIN_S) for run in runs))
    assert sorted(answers) == ["The till is closed.", f"paid {order}"]
    assert till.did == [f"pay {order}"]


async def test_when_the_first_is_cancelled_in_the_middle_the_other_asks_a_person(opened: Open, order: str) -> None:
    till = open_till(gate=False)
    env = await opened(tool_call("pay", order_id=order), tool_call("pay", order_id=order), last_result)
    first = await env.start("cashier", f"Pay {order}.")
    await till.began.wait()
    second = await env.start("cashier", f"Pay {order} too.")
    await until(second.view, lambda view: "pay" in view.doing, WITHIN_S)
    await first.cancel()
    await status_of(second, RunStatus.PARKED)
    parked = (await second.view()).parked
    assert parked is not None
    assert parked.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert f"run {first.id}" in parked.cause
    till.gate.set()
    await second.redrive(action="retry")
    assert await second.result(timeout_s=WITHIN_S) == f"paid {order}"
    assert till.did == [f"pay {order}"]


async def test_a_stopped_run_is_undone_last_effect_first_and_the_next_run_does_it_anew(opened: Open, order: str) -> None:
    till = open_till()
    calls = [tool_call(name, order_id=order) for name in ("pay", "ship", "sign", "pay")]
    env = await opened(*calls, last_result)
    run = await env.start("cashier", f"Pay and ship {order}.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await run.stop(undo=True, by="ann")
    outcome = await run.outcome(timeout_s=WITHIN_S)
    assert (outcome.status, outcome.undone) == (RunStatus.CANCELLED, 2)
    assert till.did == [f"pay {order}", f"ship {order}", f"recall {order}", f"take back {order}: paid {order}"]
    states = {each.tool: each.state for each in await env.holdfast.effects.list(run_id=run.id)}
    assert states == {"pay": "undone", "ship": "undone", "pay.undo": "succeeded", "ship.undo": "succeeded"}

    assert await env.run("cashier", f"Pay {order} after all.") == f"paid {order}"
    assert till.did[-1] == f"pay {order}"


async def test_an_undo_that_breaks_off_parks_the_end_of_the_run_and_a_person_says_what_became_of_it(opened: Open, order: str) -> None:
    till = open_till()
    env = await opened(tool_call("pay", order_id=order), tool_call("sign", order_id=order))
    run = await env.start("cashier", f"Pay {order}.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    till.fails = [RuntimeError("line cut")]
    await run.stop(undo=True, by="ann")
    await status_of(run, RunStatus.PARKED)
    parked = (await run.view()).parked
    assert parked is not None
    assert (parked.failure_class, parked.what) == (FailureClass.UNKNOWN_OUTCOME, "undo pay")
    await run.redrive(action="retry")
    assert (await run.outcome(timeout_s=WITHIN_S)).undone == 1
    assert till.did == [f"pay {order}", f"take back {order}: paid {order}"]


@pytest.mark.parametrize("error", [RuntimeError("line cut"), ToolError("The day is closed.")])
async def test_who_skips_an_undo_has_undone_it_by_hand_and_the_effect_may_be_done_anew(opened: Open, order: str, error: Exception) -> None:
    till = open_till()
    calls = [tool_call(name, order_id=order) for name in ("pay", "sign", "pay")]
    env = await opened(*calls, last_result)
    run = await env.start("cashier", f"Pay {order}.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    till.fails = [error]
    await run.stop(undo=True, by="ann")
    await status_of(run, RunStatus.PARKED)
    await run.redrive(action="skip", result="Taken back at the counter.", by="ann")
    await run.outcome(timeout_s=WITHIN_S)
    report = await env.holdfast.effects.show(f"order_id={order}", tool="pay.undo")
    assert (report.effect.state, report.effect.result) == ("succeeded", "Taken back at the counter.")
    assert [(one.ruling, one.ruled_by) for one in report.rulings] == [("done", "ann")]
    assert await env.run("cashier", f"Pay {order} after all.") == f"paid {order}"
    assert till.did == [f"pay {order}"] * 2


async def test_an_effect_of_unknown_outcome_is_ruled_on_after_its_run_has_ended(opened: Open, order: str) -> None:
    till = open_till()
    till.fails = [RuntimeError("line cut")]
    env = await opened(tool_call("pay", order_id=order), tool_call("pay", order_id=order), last_result)
    run = await env.start("cashier", f"Pay {order}.")
    await status_of(run, RunStatus.PARKED)
    await run.redrive(action="abort")
    await status_of(run, RunStatus.FAILED)
    ledger = env.holdfast.effects
    (unknown,) = await ledger.list(run_id=run.id, unknown=True)
    assert (unknown.tool, unknown.state) == ("pay", "unknown")

    ruled = await ledger.rule(unknown.step_id, "done", result=f"paid {order} by hand", reason="the bank says so", by="ann")
    assert (ruled.effect.state, ruled.effect.result) == ("succeeded", f"paid {order} by hand")
    assert [(one.ruling, one.ruled_by, one.reason) for one in ruled.rulings][-1] == ("done", "ann", "the bank says so")
    with pytest.raises(InvalidInputError, match="There is no effect of unknown outcome"):
        await ledger.rule(f"order_id={order}", "done")
    assert await env.run("cashier", f"Pay {order}.") == f"paid {order} by hand"
    assert till.did == []


async def test_orders_that_name_no_effect_or_several_are_told_so(opened: Open, order: str) -> None:
    open_till()
    env = await opened(ScriptedAnswer(calls=(("pay", {"order_id": order}), ("ship", {"order_id": order}))), "Done.")
    run = await env.start("cashier", f"Pay and ship {order}.")
    await run.result(timeout_s=WITHIN_S)
    ledger = env.holdfast.effects
    assert [each.tool for each in await ledger.list(run_id=run.id, tool="ship")] == ["ship"]
    assert (await ledger.show(f"order_id={order}")).effect.can_undo
    for wrong in ("nothing", f"{run.id}:99"):
        with pytest.raises(InvalidInputError, match="There is no effect with the key or the step"):
            await ledger.show(wrong)
    with pytest.raises(InvalidInputError, match="What was not done has no result"):
        await ledger.rule(f"order_id={order}", "not_done", result="x")
