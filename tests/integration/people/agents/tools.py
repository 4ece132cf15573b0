"""Tools that wait for people."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from holdfast import Effect, tool


@tool
async def find_order(order_id: str) -> str:
    """Find an order."""
    return f"{order_id} is delivered"


@tool(effect=Effect.ONCE, approve="amount_usd > 50", key="order_id")
async def refund(order_id: str, amount_usd: Decimal) -> str:
    """Pay an order back."""
    return f"{order_id}: {amount_usd} USD are paid back"


@tool(approve=True)
async def dismiss(name: str) -> str:
    """Dismiss somebody."""
    return f"{name} is dismissed"


@tool
async def close_shop(days: int) -> str:
    """Close the shop."""
    return f"closed for {days} days"


@tool(timeout_s=120)
async def wait(seconds: float) -> str:
    """Take a while."""
    await asyncio.sleep(seconds)
    return "waited"
