"""A throttled step waits as long as it was told, without holding a worker, and does not count as a failure."""

from __future__ import annotations

from tests.workflow.scripted import Engine, Script, agent, asks_for, call, fails, final
from workflows.contracts import policies
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import RunStatus

THROTTLED_S = policies.MODEL_CALL.schedule_to_close_s * 2


async def test_a_wait_longer_than_the_schedule_becomes_a_durable_timer_and_the_run_goes_on(engine: Engine, script: Script) -> None:
    throttled = fails(FailureClass.THROTTLED, "slow down", retry_after_s=THROTTLED_S)
    script.model("support", asks_for(call("find_order")), throttled, final())
    handle = await engine.start(agent(time_s=86_400))
    outcome = await engine.result(handle)
    assert (outcome.status, outcome.answer_step, outcome.totals.calls) == (RunStatus.COMPLETED, 3, 2)
    assert [request.step for request in script.asked] == [1, 3, 3]

    timers = [event for event in await engine.events(handle) if event.HasField("timer_started_event_attributes")]
    assert [timer.timer_started_event_attributes.start_to_fire_timeout.ToSeconds() for timer in timers] == [THROTTLED_S]
    assert b"step 3: throttled" in timers[0].user_metadata.summary.data


async def test_a_short_wait_is_left_to_the_retry_and_takes_no_timer(engine: Engine, script: Script) -> None:
    script.model("support", fails(FailureClass.THROTTLED, retry_after_s=1), final())
    handle = await engine.start(agent())
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert not any(event.HasField("timer_started_event_attributes") for event in await engine.events(handle))


async def test_throttling_parks_nobody_however_often_it_happens_within_the_runs_time(engine: Engine, script: Script) -> None:
    script.model("support", *[fails(FailureClass.THROTTLED, retry_after_s=THROTTLED_S)] * 3, final())
    assert (await engine.run(agent(time_s=86_400))).status is RunStatus.COMPLETED


async def test_throttling_without_end_stops_at_the_runs_time(engine: Engine, script: Script) -> None:
    script.model("support", then=fails(FailureClass.THROTTLED, retry_after_s=THROTTLED_S))
    handle = await engine.start(agent(time_s=3 * THROTTLED_S))
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.LIMIT
    assert view.parked.cause.startswith("limit time_s")
    assert len(script.asked) == 3


async def test_throttling_that_names_no_wait_is_no_failure_either(engine: Engine, script: Script) -> None:
    script.model("support", then=fails(FailureClass.THROTTLED))
    handle = await engine.start(agent(time_s=45))
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.LIMIT
    assert any(event.HasField("timer_fired_event_attributes") for event in await engine.events(handle))


async def test_a_throttled_tool_waits_too(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund")), final())
    script.tool("refund", fails(FailureClass.THROTTLED, retry_after_s=100_000), lambda _: "paid back")
    outcome = await engine.run(agent(time_s=200_000))
    assert (outcome.status, len(script.ran)) == (RunStatus.COMPLETED, 2)
