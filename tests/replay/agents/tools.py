"""The tools of the recorded runs."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast import Ask, Effect, ToolContext, after, before, tool
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


@tool
def dismiss(name: str) -> str:
    """Dismiss somebody."""
    return f"{name} is dismissed"


@tool
def close_shop(days: int) -> str:
    """Close the shop."""
    return f"closed for {days} days"


@tool
def sell_shop(price: int) -> str:
    """Sell the shop."""
    return f"sold for {price}"


def unbook(room: str, result: str) -> str:
    """Give a room back."""
    return f"{room} is free again: {planted.text('result')}"


@tool(effect=Effect.ONCE, undo=unbook)
def book(room: str) -> str:
    """Book a room."""
    return f"{room}: {planted.text('result')}"


@tool
def look_inside(box: str) -> str:
    """Look into a box."""
    return f"{box}: {planted.text('result')}"


@after("look_inside")
def hold_back(result: str) -> Ask | None:
    """Let a person see first what is in a box."""
    return Ask("may the model see it?")


@tool
def open_drawer(number: int) -> str:
    """Open a drawer."""
    return f"drawer {number} is open"


@before("open_drawer")
def guard(arguments: dict[str, Any]) -> Ask | None:
    """Ask a person before a drawer is opened."""
    return Ask("may it be opened?")


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
