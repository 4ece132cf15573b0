"""Tools for the client's tests: one that looks, one that pays, one that takes as long as it is told."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from holdfast import Effect, tool


@tool
async def find_order(order_id: str) -> dict[str, str]:
    """Find an order."""
    return {"order_id": order_id, "state": "delivered"}


@tool(effect=Effect.ONCE, approve="amount_usd > 50", key="order_id")
async def refund(order_id: str, amount_usd: Decimal) -> str:
    """Pay an order back."""
    return f"{order_id}: {amount_usd} USD are paid back"


@tool(timeout_s=120)
async def wait(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return "done"
