"""A holder says that it lives for as long as its tool runs, and notices when it holds the effect no longer."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest
from structlog.testing import capture_logs

from state import effects
from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.tools import Tool, tool


class Slow:
    """A tool that runs until the test lets it end."""

    def __init__(self, effect: Effect) -> None:
        self.began, self.go_on = asyncio.Event(), asyncio.Event()

        @tool(effect=effect, key="order_id")
        async def pay(order_id: str) -> str:
            """Pay slowly."""
            self.began.set()
            await self.go_on.wait()
            return "paid"

        self.tool: Tool[..., object] = pay


async def lease(desk: Desk) -> tuple[datetime, bool]:
    """Until when the desk's one effect is held, and whether that is still to come."""
    row = await desk.database.fetchrow("select lease_until, lease_until > now() as live from effects where tenant = $1", desk.tenant)
    assert row is not None
    return row["lease_until"], row["live"]


@pytest.mark.parametrize("effect", [Effect.ONCE, Effect.IDEMPOTENT])
async def test_a_tool_that_runs_longer_than_a_lease_keeps_its_hold(desk: Desk, effect: Effect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "RENEW_EVERY_S", 0.02)
    slow = Slow(effect)
    worker = desk.worker(slow.tool)
    one, two = await desk.asked(slow.tool.spec, {"order_id": "W1"}), await desk.asked(slow.tool.spec, {"order_id": "W1"})
    holder = Attempt().begin(worker, one)
    await slow.began.wait()
    await desk.end_leases()
    async with asyncio.timeout(10):
        while not (await lease(desk))[1]:  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.01)
    with pytest.raises(StepError) as busy:
        await desk.attempt(worker, two)
    assert busy.value.failure_class is FailureClass.THROTTLED
    slow.go_on.set()
    assert (await holder).ok
    ended, _ = await lease(desk)
    await asyncio.sleep(0.1)
    assert (await lease(desk))[0] == ended, "a tool that has ended renews no more"


async def test_a_holder_that_lost_its_effect_says_so_and_does_not_overwrite_what_came_after(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "RENEW_EVERY_S", 0.02)
    slow = Slow(Effect.ONCE)
    worker, request = desk.worker(slow.tool), await desk.asked(slow.tool.spec, {"order_id": "W1"})
    with capture_logs() as logs:
        holder = Attempt().begin(worker, request)
        await slow.began.wait()
        taken = "update effects set token = 'of another', run_id = 'another run', attempts = 2 where tenant = $1"
        await desk.database.execute(taken, desk.tenant)
        async with asyncio.timeout(10):
            while not any(entry["event"] == "effect.lease_lost" for entry in logs):  # noqa: ASYNC110 - nor does a log
                await asyncio.sleep(0.01)
        slow.go_on.set()
        await holder
    assert any(entry["event"] == "effect.overtaken" for entry in logs)
    row = await desk.row(slow.tool, "order_id=W1")
    assert row is not None
    assert (row.state, row.attempts) == ("started", 2)
