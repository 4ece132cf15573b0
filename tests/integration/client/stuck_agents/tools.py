"""A tool that breaks off in the middle when it is told to, so that nobody knows whether it did its work."""

from __future__ import annotations

from holdfast import Effect, tool


@tool(effect=Effect.ONCE)
async def charge(order_id: str, fail: str) -> str:
    """Charge an order."""
    if fail == "true":
        raise ConnectionResetError("cut off in the middle")
    return f"{order_id} charged"
