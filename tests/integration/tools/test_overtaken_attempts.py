"""An attempt that was given up, and goes on all the same: it must not speak for the one that took its place."""

from __future__ import annotations

import asyncio
import random
import string

import pytest

from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError, ToolError
from workflows.contracts.steps import ToolOutcome, ToolRunRequest
from workflows.contracts.tools import Tool, ToolContext, tool

Gates = dict[int, asyncio.Future[str]]


def gated(gates: Gates) -> Tool[..., object]:
    """A tool whose every call ends when the test says so, and as it says."""

    @tool(effect=Effect.IDEMPOTENT, key="order_id")
    async def ship(order_id: str, context: ToolContext) -> str:
        """Ship an order."""
        gates[len(gates) + 1] = ending = asyncio.get_running_loop().create_future()
        return str(await ending)

    return ship


async def two_at_once(desk: Desk, gates: Gates) -> tuple[Tool[..., object], ToolRunRequest, list[asyncio.Task[ToolOutcome]]]:
    """Two attempts of one step, both in the middle of the tool; the second holds the effect."""
    ship = gated(gates)
    worker, request = desk.worker(ship), await desk.asked(ship.spec, {"order_id": "W1"})
    tasks = []
    for number in (1, 2):
        tasks.append(Attempt(number).begin(worker, request))
        async with asyncio.timeout(10):
            while len(gates) < number:  # noqa: ASYNC110 - the tool itself is not to know of the test
                await asyncio.sleep(0)
        await desk.end_leases()
    return ship, request, tasks


async def test_a_failure_of_the_attempt_that_was_given_up_is_not_the_steps_result(desk: Desk) -> None:
    gates: Gates = {}
    ship, request, (old, new) = await two_at_once(desk, gates)
    gates[1].set_exception(ToolError("the carrier is closed"))
    with pytest.raises(StepError) as overtaken:
        await old
    assert (overtaken.value.failure_class, overtaken.value.code) == (FailureClass.TRANSIENT, "effect_overtaken")
    assert await desk.told(request) is None
    assert await desk.state(ship, "order_id=W1") == "started"

    gates[2].set_result("shipped")
    assert (await new).preview == "shipped"
    assert await desk.state(ship, "order_id=W1") == "succeeded"


async def test_a_result_of_the_attempt_that_was_given_up_is_the_steps_result(desk: Desk) -> None:
    gates: Gates = {}
    ship, _, (old, new) = await two_at_once(desk, gates)
    gates[1].set_result("shipped at last")
    assert (await old).preview == "shipped at last"
    gates[2].set_exception(ToolError("it is on its way already"))
    assert (await new).preview == "shipped at last", "the first result of a step stays"
    assert await desk.state(ship, "order_id=W1") == "succeeded"


async def test_a_failure_after_the_other_attempt_ended_finds_its_result(desk: Desk) -> None:
    gates: Gates = {}
    ship, _, (old, new) = await two_at_once(desk, gates)
    gates[2].set_result("shipped")
    assert (await new).ok
    gates[1].set_exception(ToolError("the carrier is closed"))
    assert (await old).preview == "shipped"
    assert await desk.state(ship, "order_id=W1") == "succeeded"


async def test_a_key_of_any_length_names_one_effect(desk: Desk) -> None:
    done: list[str] = []

    @tool(effect=Effect.ONCE, key="text")
    async def post(text: str) -> str:
        """Post a text once."""
        done.append(text)
        return "posted"

    worker = desk.worker(post)
    text = "".join(random.Random(7).choices(string.printable, k=20_000))
    for _ in range(2):
        assert (await desk.attempt(worker, await desk.asked(post.spec, {"text": text}))).ok
    assert (await desk.attempt(worker, await desk.asked(post.spec, {"text": text + "!"}))).ok
    assert done == [text, text + "!"]


async def test_a_persons_ruling_is_good_only_for_the_attempt_that_they_were_asked_about(desk: Desk) -> None:
    done: list[str] = []

    @tool(effect=Effect.ONCE, key="order_id")
    async def refund(order_id: str, context: ToolContext) -> str:
        """Pay an order back."""
        done.append(context.run_id)
        raise RuntimeError("line cut")

    worker = desk.worker(refund)
    one, two = await desk.asked(refund.spec, {"order_id": "W1"}), await desk.asked(refund.spec, {"order_id": "W1"})

    async def parks(request: ToolRunRequest, rulings: int) -> None:
        with pytest.raises(StepError) as parked:
            await desk.attempt(worker, request, activity=str(rulings), again=rulings > 0)
        assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME

    await parks(one, 0)
    await parks(two, 0)
    assert done == [one.run_id]
    await parks(two, 1)
    assert done == [one.run_id, two.run_id], "the second run's person said: do it again"
    await parks(one, 1)
    assert done == [one.run_id, two.run_id], "the first run's person had not heard of that"
    await parks(one, 2)
    assert done == [one.run_id, two.run_id, one.run_id]
