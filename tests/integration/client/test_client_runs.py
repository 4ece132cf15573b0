"""Following a run, deciding in it, and reading it afterwards."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from pydantic import BaseModel

from activities.inference.providers.scripted import ScriptedAnswer, tool_call
from client.events import RunEvent, StatusEvent, StepEvent
from tests.integration.client.conftest import WITHIN_S, WRONG_KEY, Open, status_of, until
from workflows.contracts.errors import (
    FailureClass,
    InvalidInputError,
    ResultTypeError,
    RunCancelledError,
    RunFailedError,
    RunParkedError,
    RunStateError,
    UnknownRunError,
)
from workflows.contracts.runs import RunStatus

PAY_100 = tool_call("refund", order_id="C100", amount_usd="100")


class Answer(BaseModel):
    order_id: str
    days: int


async def collected(events: AsyncIterator[RunEvent]) -> list[RunEvent]:
    async with asyncio.timeout(WITHIN_S):
        return [event async for event in events]


async def test_an_answer_is_given_as_the_type_that_is_asked_for(opened: Open):
    env = await opened('{"order_id": "W17", "days": 3}')
    run = await env.start("desk", "x")

    assert await run.result(Answer, timeout_s=WITHIN_S) == Answer(order_id="W17", days=3)
    assert await run.result(str) == await run.result() == '{"order_id": "W17", "days": 3}'
    with pytest.raises(ResultTypeError, match=r"no int.*output_schema") as refused:
        await run.result(int)
    assert "W17" not in str(refused.value)


async def test_an_outcome_tells_what_the_run_used(opened: Open):
    env = await opened(tool_call("find_order", order_id="W17"), "Delivered.")
    run = await env.start("desk", "x")

    outcome = await run.outcome(timeout_s=WITHIN_S)

    assert (outcome.totals.calls, outcome.totals.steps, outcome.simulated) == (2, 3, True)
    assert outcome.totals.cost_usd > 0


async def test_waiting_can_have_an_end_and_the_run_goes_on(opened: Open):
    env = await opened(tool_call("wait", seconds=3), "Done.")
    run = await env.start("desk", "x")

    with pytest.raises(TimeoutError, match=run.id):
        await run.result(timeout_s=0.3)

    assert await run.result(timeout_s=WITHIN_S) == "Done."


async def test_a_parked_run_is_waited_for_unless_that_is_not_wanted(opened: Open):
    env = await opened(WRONG_KEY, "At last.")
    run = await env.start("desk", "x")

    with pytest.raises(RunParkedError, match=rf"caller.*holdfast show {run.id}"):
        await run.result(timeout_s=WITHIN_S, raise_when_parked=True)
    waiting = asyncio.create_task(run.result(timeout_s=WITHIN_S))
    report = await run.show()
    await run.redrive()

    assert report.failure is not None
    assert "the key is wrong" in report.failure
    assert (report.status, report.failure_class) == (RunStatus.PARKED, FailureClass.CALLER)
    assert await waiting == "At last."
    assert await run.result(raise_when_parked=True) == "At last."


async def test_an_aborted_run_has_failed_with_class_and_cause(opened: Open):
    env = await opened(WRONG_KEY)
    run = await env.start("desk", "x")
    await status_of(run, RunStatus.PARKED)

    await run.redrive(action="abort", by="me")

    with pytest.raises(RunFailedError, match=r"step 1.*the key is wrong") as failed:
        await run.result(timeout_s=WITHIN_S)
    assert failed.value.failure_class is FailureClass.CALLER
    outcome = await run.outcome()
    assert outcome.failure is not None
    assert outcome.failure.failure_class is FailureClass.CALLER
    report = await run.show()
    assert (report.status, report.failure_class) == (RunStatus.FAILED, FailureClass.CALLER)


async def test_a_cancelled_run_says_so_and_its_tool_is_stopped(opened: Open):
    env = await opened(tool_call("wait", seconds=100))
    run = await env.start("desk", "x")
    await until(run.steps, lambda steps: any(step.kind == "tool" for step in steps))

    await run.cancel()

    with pytest.raises(RunCancelledError, match=run.id):
        await run.result(timeout_s=WITHIN_S)
    assert await run.status() is RunStatus.CANCELLED
    with pytest.raises(RunStateError, match="ended already: it is cancelled"):
        await run.cancel()


async def test_a_run_that_temporal_ended_is_told_as_terminated(opened: Open):
    env = await opened(tool_call("wait", seconds=100))
    run = await env.start("desk", "x")

    await env.client.get_workflow_handle(run.id).terminate(reason="by hand")

    with pytest.raises(RunFailedError, match="terminated: by hand") as failed:
        await run.result(timeout_s=WITHIN_S)
    assert failed.value.failure_class is None
    assert await run.status() is RunStatus.TERMINATED
    assert "by hand" in ((await run.show()).failure or "")


async def test_a_person_approves_one_call(opened: Open):
    env = await opened(PAY_100, "Paid.")
    run = await env.start("desk", "x")
    await status_of(run, RunStatus.WAITING_APPROVAL)

    with pytest.raises(RunParkedError, match="waits for an approval"):
        await run.result(raise_when_parked=True, timeout_s=WITHIN_S)
    report = await run.show()
    with pytest.raises(RunStateError, match=rf"no call 'other'.*{report.approvals[0].call_id}"):
        await run.approve("other")
    await run.approve(report.approvals[0].call_id, by="me")

    assert await run.result(timeout_s=WITHIN_S) == "Paid."
    assert (await run.steps())[2].preview == "C100: 100 USD are paid back"


async def test_a_person_rejects_and_the_model_is_told_why(opened: Open):
    env = await opened(PAY_100, "It was not paid.")
    run = await env.start("desk", "x")
    await status_of(run, RunStatus.WAITING_APPROVAL)

    await run.reject(reason="too much", by="me")

    assert await run.result(timeout_s=WITHIN_S) == "It was not paid."
    assert "too much" in env.model.requests[1].messages[-1].text  # type: ignore[attr-defined]  # the scripted model keeps them


async def test_orders_that_mean_nothing_now_are_refused(opened: Open):
    env = await opened("Done.")
    run = await env.start("desk", "x")
    await run.result(timeout_s=WITHIN_S)

    with pytest.raises(RunStateError, match="has ended already"):
        await run.redrive()
    with pytest.raises(RunStateError, match="has ended already"):
        await run.approve()


@pytest.mark.parametrize("run_id", ["nobody", "a b", "x" * 2_000])
async def test_a_run_that_is_not_there_is_named_by_every_verb(run_id: str, opened: Open):
    holdfast = (await opened()).holdfast

    for attempt in (
        holdfast.get(run_id),
        holdfast.result(run_id),
        holdfast.cancel(run_id),
        holdfast.approve(run_id),
        holdfast.reject(run_id),
        holdfast.redrive(run_id),
        collected(holdfast.events(run_id)),
    ):
        with pytest.raises(UnknownRunError):
            await attempt


async def test_events_tell_every_step_once_and_every_status_until_the_end(opened: Open):
    env = await opened(PAY_100, tool_call("find_order", order_id="W17"), "Done.")
    run = await env.start("desk", "x")
    told: list[RunEvent] = []
    async with asyncio.timeout(WITHIN_S):
        async for event in run.events():
            told.append(event)
            if isinstance(event, StatusEvent) and event.status is RunStatus.WAITING_APPROVAL:
                await run.approve()

    assert [event.step.step for event in told if isinstance(event, StepEvent)] == [0, 1, 2, 3, 4, 5]
    statuses = [event.status for event in told if isinstance(event, StatusEvent)]
    assert statuses[-1] is RunStatus.COMPLETED
    assert RunStatus.WAITING_APPROVAL in statuses
    assert [event.ended for event in told if isinstance(event, StatusEvent)].count(True) == 1
    assert isinstance(told[-1], StatusEvent)
    assert told[-1].cursor == "0-5"


async def test_events_go_on_from_any_cursor_though_parallel_calls_end_in_any_order(opened: Open):
    slow_first = ScriptedAnswer(calls=(("wait", {"seconds": 1.5}), ("find_order", {"order_id": "W17"})))
    env = await opened(slow_first, "Done.")
    run = await env.start("desk", "x")
    live = await collected(run.events())

    order = [event.step.step for event in live if isinstance(event, StepEvent)]
    assert order.index(3) < order.index(2)
    for seen, event in enumerate(live):
        rest = [later.step.step for later in live[seen + 1 :] if isinstance(later, StepEvent)]
        again = [later.step.step for later in await collected(run.events(event.cursor)) if isinstance(later, StepEvent)]
        assert sorted(again) == sorted(rest)
    names = [event.step.name for event in live if isinstance(event, StepEvent) and event.step.kind == "tool"]
    assert sorted(names) == ["find_order", "wait"]


async def test_a_wrong_cursor_is_refused(opened: Open):
    env = await opened("Done.")
    run = await env.start("desk", "x")

    with pytest.raises(InvalidInputError, match="no cursor"):
        await collected(run.events("yesterday"))


async def test_a_report_has_the_sub_runs_and_sums_them_up(opened: Open):
    env = await opened(tool_call("helper", request="Find W17"), "It is W17.", "All done.")
    run = await env.start("desk", "x", user="u1", idempotency_key=uuid.uuid4().hex)
    await run.result(timeout_s=WITHIN_S)

    report = await run.show()

    sub_run = report.sub_runs[0]
    assert (report.user, report.agent, sub_run.agent, sub_run.parent_run_id) == ("u1", "desk", "helper", run.id)
    assert [(step.kind, step.name) for step in report.steps[1:3]] == [("model", "smart"), ("agent", "helper")]
    assert report.steps[2].sub_run_id == sub_run.id
    assert report.steps[2].preview == "It is W17."
    assert report.totals.model_calls == 3
    own = sum((step.cost_usd for step in report.steps), Decimal(0))
    assert report.totals.cost_usd == own + sub_run.totals.cost_usd
    outcome = await run.outcome()
    assert outcome.totals.cost_usd == report.totals.cost_usd
    assert outcome.totals.usage == report.totals.usage
    assert report.simulated
