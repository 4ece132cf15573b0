"""The tools of the recorded runs."""

from __future__ import annotations

import asyncio

from holdfast import Effect, ToolContext, tool
from tests.replay import planted


@tool
def find_order(order_id: str, note: str = "") -> str:
    """Find an order."""
    return f"{order_id}: {planted.text('result')}"


@tool
def find_customer(name: str) -> str:
    """Find a customer."""
    return f"{name}: {planted.text('result')}"


@tool(effect=Effect.ONCE, approve=True, key="order_id")
def refund(order_id: str) -> str:
    """Pay an order back."""
    return f"{order_id} is paid back"


@tool(effect=Effect.ONCE)
def break_off() -> str:
    """End before anybody knows whether the work was done."""
    raise ConnectionError(f"lost the connection, key {planted.KEYS['failure']}")


@tool(timeout_s=300)
async def wait_for_ever(context: ToolContext) -> str:
    """Wait until the run is cancelled."""
    while True:
        context.heartbeat()
        await asyncio.sleep(0.05)
