"""A run that is reborn keeps its effects' keys: what the dead one did is not done again, what it may have done is asked."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.steps import ToolRunRequest
from workflows.contracts.tools import Tool, ToolContext, tool


class Till:
    """A `once` or idempotent tool without a business key, which can be made to hang after its deed."""

    def __init__(self, effect: Effect = Effect.ONCE) -> None:
        self.keys: list[str] = []
        self.hangs = False
        self.acted = asyncio.Event()

        @tool(effect=effect)
        async def pay(order_id: str, context: ToolContext) -> str:
            """Pay."""
            self.keys.append(context.idempotency_key)
            self.acted.set()
            if self.hangs:
                await asyncio.Event().wait()
            return "paid"

        self.tool: Tool[..., object] = pay


async def reborn(desk: Desk, till: Till, dead: ToolRunRequest) -> ToolRunRequest:
    request = await desk.asked(till.tool.spec, {"order_id": "W1"}, run_id=f"{dead.run_id}-r1")
    await desk.database.execute("update runs set effects_run = $1 where run_id = $2", dead.run_id, request.run_id)
    return request


async def test_what_the_dead_run_did_gives_its_result_and_is_the_reborn_runs_to_undo(desk: Desk) -> None:
    till = Till()
    worker, dead = desk.worker(till.tool), await desk.asked(till.tool.spec, {"order_id": "W1"})
    await desk.attempt(worker, dead)
    request = await reborn(desk, till, dead)
    outcome = await desk.attempt(worker, request)
    assert (outcome.reused, outcome.preview) == (True, "paid")
    assert till.keys == [f"{dead.run_id}:2"]


async def test_what_was_in_the_air_is_waited_for_and_then_asked_of_a_person_and_done_again_only_on_their_word(desk: Desk) -> None:
    till = Till()
    till.hangs = True
    worker, dead = desk.worker(till.tool), await desk.asked(till.tool.spec, {"order_id": "W1"})
    in_the_air = Attempt().begin(worker, dead)
    await till.acted.wait()
    request = await reborn(desk, till, dead)
    with pytest.raises(StepError, match=f"by step 2 of run {dead.run_id}") as busy:
        await desk.attempt(worker, request)
    assert busy.value.failure_class is FailureClass.THROTTLED
    await desk.end_leases()
    with pytest.raises(StepError) as parked:
        await desk.attempt(worker, request, attempt=2)
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert len(till.keys) == 1
    in_the_air.cancel()
    till.hangs = False
    assert (await desk.attempt(worker, request, again=True)).ok
    assert till.keys == [f"{dead.run_id}:2"] * 2, "one effect, one key, whichever run does it"


async def test_an_idempotent_tool_is_run_again_under_the_dead_runs_key(desk: Desk) -> None:
    till = Till(Effect.IDEMPOTENT)
    till.hangs = True
    worker, dead = desk.worker(till.tool), await desk.asked(till.tool.spec, {"order_id": "W1"})
    in_the_air = Attempt().begin(worker, dead)
    await till.acted.wait()
    await desk.end_leases()
    in_the_air.cancel()
    till.hangs = False
    assert (await desk.attempt(worker, await reborn(desk, till, dead))).ok
    assert till.keys == [f"{dead.run_id}:2"] * 2


async def test_a_forked_run_has_keys_of_its_own(desk: Desk) -> None:
    till = Till()
    worker, one = desk.worker(till.tool), await desk.asked(till.tool.spec, {"order_id": "W1"})
    await desk.attempt(worker, one)
    fork = await desk.asked(till.tool.spec, {"order_id": "W1"}, run_id=f"{one.run_id}-fork")
    assert not (await desk.attempt(worker, fork)).reused
    assert till.keys == [f"{one.run_id}:2", f"{fork.run_id}:2"]
