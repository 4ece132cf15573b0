"""Tools whose work is counted in a file, one line each time it is done."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from holdfast import Ask, Effect, ToolContext, after, tool


@tool
async def find(order_id: str) -> str:
    """Find an order."""
    _done("find", order_id)
    return f"{order_id} is delivered"


@tool(effect=Effect.ONCE, approve="amount_usd > 50", timeout_s=60)
async def pay(order_id: str, context: ToolContext, amount_usd: int = 1) -> str:
    """Pay for an order; an order whose name begins with `slow` waits for a file of its name."""
    _done("pay", order_id, context.idempotency_key)
    while order_id.startswith("slow") and not (_folder() / order_id).exists():
        context.heartbeat()
        await asyncio.sleep(0.02)
    return f"{order_id}: {amount_usd} USD are paid"


@tool(effect=Effect.ONCE, key="order_id")
async def refund(order_id: str) -> str:
    """Pay an order back, once for all runs."""
    _done("refund", order_id)
    return f"{order_id} is paid back"


@tool(effect=Effect.IDEMPOTENT)
async def settle(order_id: str) -> str:
    """Close an order."""
    _done("settle", order_id)
    return f"{order_id} is closed"


async def unbook(order_id: str) -> str:
    """Give a booking back."""
    _done("unbook", order_id)
    return f"{order_id} is given back"


@tool(effect=Effect.ONCE, undo=unbook)
async def book(order_id: str) -> str:
    """Book an order."""
    _done("book", order_id)
    return f"{order_id} is booked"


@tool(effect=Effect.ONCE)
async def quote(order_id: str) -> str:
    """Tell what an order costs, which a person looks at first."""
    _done("quote", order_id)
    return f"{order_id} costs 7 USD"


@after("quote")
def look_first(arguments: dict[str, object]) -> Ask:
    """No price leaves the house unseen."""
    return Ask(reason=f"the price of {arguments['order_id']}")


def _folder() -> Path:
    return Path(os.environ["FORKS_FOLDER"])


def _done(*words: str) -> None:
    with (_folder() / "done").open("a", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")
