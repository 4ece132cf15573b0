"""A run that reaches a limit waits, parked with class limit, and goes on when a person raises it."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from tests.workflow.scripted import Engine, HangsUntilCancelled, Script, agent, asks_for, call, fails, final, no_call
from workflows.contracts import names
from workflows.contracts.agents import Limits
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Usage
from workflows.contracts.runs import Redrive, RunStatus
from workflows.contracts.steps import TurnKind

FIND = asks_for(call("find_order"))


@pytest.mark.parametrize(
    ("limit", "value", "told"),
    [
        ("steps", 2, "limit steps: 2 used"),
        ("calls", 1, "limit calls: 1 used"),
        ("tokens", 110, "limit tokens: 110 of 110 used"),
        ("cost_usd", Decimal("0.001"), "limit cost_usd: 0.0010 of 0.001 used"),
    ],
)
async def test_a_run_at_its_limit_is_parked_and_goes_on_with_a_raised_one(
    engine: Engine, script: Script, limit: str, value: Any, told: str
) -> None:
    script.model("support", FIND, final())
    handle = await engine.start(agent(**{limit: value}))

    view = await engine.parked(handle)
    assert view.status is RunStatus.PARKED
    assert view.parked is not None
    assert (view.parked.failure_class, view.parked.cause, view.parked.step) == (FailureClass.LIMIT, told, 3)
    assert len(script.asked) == 1

    await handle.signal(names.REDRIVE, Redrive(limits=Limits()))
    outcome = await engine.result(handle)
    assert (outcome.status, outcome.answer_step, outcome.totals.steps) == (RunStatus.COMPLETED, 3, 3)


async def test_a_redrive_that_raises_nothing_parks_the_run_again(engine: Engine, script: Script) -> None:
    script.model("support", FIND, final())
    handle = await engine.start(agent(calls=1))
    await engine.parked(handle)

    await handle.signal(names.REDRIVE, Redrive())
    await handle.signal(names.REDRIVE, Redrive(limits=Limits(calls=1)))
    assert (await engine.parked(handle)).parked is not None
    assert len(script.asked) == 1

    await handle.signal(names.REDRIVE, Redrive(limits=Limits(calls=2)))
    assert (await engine.result(handle)).totals.calls == 2


async def test_tool_calls_that_would_pass_the_step_limit_are_not_begun(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("a"), call("b"), call("c")), final())
    handle = await engine.start(agent(steps=3))

    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.cause == "limit steps: 3 would be passed by 3 tool calls"
    assert script.ran == []

    await handle.signal(names.REDRIVE, Redrive(limits=Limits(steps=4)))
    view = await engine.until(handle, lambda seen: seen.parked is not None and len(script.ran) == 3)
    assert view.parked is not None
    assert view.parked.cause == "limit steps: 4 used"


async def test_a_call_that_the_budget_refuses_parks_the_run_and_is_asked_anew_under_the_raised_limit(
    engine: Engine, script: Script
) -> None:
    script.model("support", no_call(TurnKind.LIMIT, "limit cost_usd: the next call could pass it"), final())
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert (view.parked.failure_class, view.parked.step) == (FailureClass.LIMIT, 1)
    assert view.totals.calls == 0

    await handle.signal(names.REDRIVE, Redrive(limits=Limits(cost_usd=Decimal(5))))
    assert (await engine.result(handle)).answer_step == 1
    assert [request.step for request in script.asked] == [1, 1]
    assert script.asked[-1].agent.limits.cost_usd == 5


async def test_working_time_is_limited(engine: Engine, script: Script) -> None:
    throttled = fails(FailureClass.THROTTLED, retry_after_s=4_000)
    script.model("support", throttled, FIND, final())
    handle = await engine.start(agent(time_s=3_600))

    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.LIMIT
    assert view.parked.cause.startswith("limit time_s: 40")

    await handle.signal(names.REDRIVE, Redrive(limits=Limits(time_s=10_000)))
    assert (await engine.result(handle)).status is RunStatus.COMPLETED


@pytest.mark.parametrize("step", ["model", "tool"])
async def test_a_step_that_outlasts_the_runs_time_is_cut_short_and_parks_it_at_that_limit(
    engine: Engine, script: Script, step: str
) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", *([hanging] if step == "model" else []), FIND, final())
    if step == "tool":
        script.tool("find_order", hanging, lambda _: "found")
    handle = await engine.start(agent(time_s=3), skip_time=False)
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.LIMIT
    assert view.parked.cause.startswith("limit time_s: ")
    assert view.parked.cause.endswith(" of 3 used; no answer in time (schedule to close)")
    await asyncio.wait_for(hanging.cancelled.wait(), 10)

    await handle.signal(names.REDRIVE, Redrive(limits=Limits(time_s=60)))
    assert (await engine.result(handle)).status is RunStatus.COMPLETED


async def test_waiting_for_people_does_not_count_as_working_time(engine: Engine, script: Script) -> None:
    script.model("support", fails(FailureClass.CALLER), asks_for(call("refund", needs_approval=True)), FIND, final())
    handle = await engine.start(agent(time_s=3_600), skip_time=False)

    await engine.parked(handle)
    assert await engine.skipper.fast_forward(handle, 20_000)
    await handle.signal(names.REDRIVE, Redrive())
    await engine.until(handle, lambda view: bool(view.approvals))
    assert await engine.skipper.fast_forward(handle, 20_000)
    await handle.signal("approve")

    assert (await engine.result(handle)).status is RunStatus.COMPLETED


async def test_tokens_and_cost_are_counted_over_all_calls(engine: Engine, script: Script) -> None:
    usage = Usage(input_tokens=1_000, cached_input_tokens=200, cache_write_tokens=30, output_tokens=40)
    script.model("support", asks_for(call("a"), usage=usage, cost_usd=Decimal("0.1"), unknown_usd=Decimal("0.04")), final())
    totals = (await engine.run(agent())).totals
    assert totals.usage == Usage(input_tokens=1_100, cached_input_tokens=200, cache_write_tokens=30, output_tokens=50)
    assert (totals.cost_usd, totals.unknown_usd, totals.steps, totals.calls) == (Decimal("0.101"), Decimal("0.04"), 3, 2)
