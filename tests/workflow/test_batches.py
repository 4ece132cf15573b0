"""A run that can wait takes a place in a batch, and looks at it ever more seldom; the wait is nobody's working time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import CancelledError

from tests.workflow.scripted import Engine, Handle, Script, agent, asks_for, call, fails, final
from tests.workflow.scripted_batches import PLACE, Brings
from workflows.contracts.batches import BatchLook, BatchPlace, BatchState
from workflows.contracts.errors import FailureClass
from workflows.contracts.inference import Priority
from workflows.contracts.runs import RunStatus, RunView
from workflows.contracts.steps import ModelTurn

HANDED_IN = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)


def nothing(_look: BatchLook) -> BatchState:
    """The batch is worked on."""
    return BatchState(handed_in_at=HANDED_IN)


def answered(answer: object = None) -> Brings:
    """The batch has brought a turn."""

    def brings(look: BatchLook) -> BatchState:
        turn = (answer or final())(look.call)  # type: ignore[operator]
        assert isinstance(turn, ModelTurn)
        return BatchState(turn=turn)

    return brings


async def timers(engine: Engine, handle: Handle) -> list[float]:
    """How long every timer of the run was to take, in seconds."""
    started = [
        event.timer_started_event_attributes for event in await engine.events(handle) if event.HasField("timer_started_event_attributes")
    ]
    return [timer.start_to_fire_timeout.ToSeconds() for timer in started]


async def test_looks_come_ever_more_seldom_and_the_wait_does_not_count_as_work(engine: Engine, script: Script) -> None:
    script.batches.brings.extend([nothing] * 7 + [answered()])
    handle = await engine.start(agent(time_s=60), priority=Priority.BATCH)
    outcome = await engine.result(handle)
    assert outcome.status is RunStatus.COMPLETED
    assert await timers(engine, handle) == [30, 60, 120, 240, 480, 960, 1_800, 1_800]
    assert outcome.waited_s >= 30 + 60 + 120 + 240 + 480 + 960 + 1_800 + 1_800
    assert [look.call_id for look in script.batches.looks] == [1] * 8
    assert script.asked == []


async def test_each_step_has_a_place_of_its_own_and_a_batch_that_is_not_gathered_for_is_handed_in_at_once(
    engine: Engine, script: Script
) -> None:
    script.batches.place = PLACE.model_copy(update={"gather_s": 0})
    script.batches.brings.extend([answered(asks_for(call("find_order"))), nothing, answered()])
    handle = await engine.start(agent(), priority=Priority.BATCH)
    outcome = await engine.result(handle)
    assert (outcome.answer_step, outcome.totals.calls) == (3, 2)
    assert [request.step for request in script.batches.submitted] == [1, 3]
    assert await timers(engine, handle) == [60]


@pytest.mark.parametrize("priority", [each for each in Priority if each is not Priority.BATCH])
async def test_only_work_that_can_wait_is_put_into_batches(engine: Engine, script: Script, priority: Priority) -> None:
    script.model("support", final())
    await engine.run(agent(), priority=priority)
    assert (len(script.asked), script.batches.submitted) == (1, [])


async def test_a_provider_without_a_batch_api_is_asked_as_ever(engine: Engine, script: Script) -> None:
    script.batches.place = BatchPlace(ordinary="it has no Batch API")
    script.model("support", final())
    handle = await engine.start(agent(), priority=Priority.BATCH)
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert (len(script.asked), len(script.batches.looks), await timers(engine, handle)) == (1, 0, [])


async def test_a_request_that_its_batch_did_not_answer_goes_on_as_an_ordinary_call(engine: Engine, script: Script) -> None:
    script.batches.brings.append(lambda _look: BatchState(ordinary="the batch expired"))
    script.model("support", final())
    outcome = await engine.run(agent(), priority=Priority.BATCH)
    assert (outcome.status, [request.step for request in script.asked]) == (RunStatus.COMPLETED, [1])


async def test_a_request_that_was_refused_parks_its_run_and_is_put_into_another_batch_by_a_redrive(engine: Engine, script: Script) -> None:
    script.batches.brings.extend([fails(FailureClass.CALLER, "no such tool"), answered()])
    handle = await engine.start(agent(), priority=Priority.BATCH)
    parked = (await engine.parked(handle)).parked
    assert parked is not None
    assert (parked.failure_class, parked.cause) == (FailureClass.CALLER, "no such tool")
    await handle.signal("redrive", {})
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert len(script.batches.submitted) == 2


async def test_a_run_that_is_woken_looks_at_once(engine: Engine, script: Script) -> None:
    script.batches.brings.extend([nothing, answered()])
    script.batches.place = PLACE.model_copy(update={"gather_s": 0, "first_look_s": 1_000})
    handle = await engine.start(agent(), skip_time=False, priority=Priority.BATCH)
    await engine.until(handle, lambda view: "handed in 2026-03-01 09:30 UTC" in view.doing)
    await handle.signal("wake", {})
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert [look.at_once for look in script.batches.looks] == [False, True]


async def test_a_cancelled_run_leaves_its_batch(engine: Engine, script: Script) -> None:
    script.batches.brings.append(nothing)
    script.batches.place = PLACE.model_copy(update={"gather_s": 0, "first_look_s": 1_000})
    handle = await engine.start(agent(), skip_time=False, priority=Priority.BATCH)
    waits: RunView = await engine.until(handle, lambda view: "waiting for a batch of scripted, handed in" in view.doing)
    assert waits.status is RunStatus.RUNNING
    await handle.cancel()
    with pytest.raises(WorkflowFailureError) as failure:
        await engine.result(handle)
    assert isinstance(failure.value.cause, CancelledError)
    assert [look.call_id for look in script.batches.left] == [1]


async def test_a_run_that_is_not_cancelled_does_not_leave_its_batch(engine: Engine, script: Script) -> None:
    script.batches.brings.extend([nothing, fails(FailureClass.CALLER), answered()])
    handle = await engine.start(agent(), priority=Priority.BATCH)
    await engine.parked(handle)
    await handle.signal("redrive", {})
    await engine.result(handle)
    assert script.batches.left == []
