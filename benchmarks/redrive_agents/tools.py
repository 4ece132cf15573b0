"""An effect that is to happen once for each order; a table of its own tells how often it did."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import asyncpg

from holdfast import Effect, Provided, ToolContext, provide, tool


@provide
async def connections() -> AsyncIterator[asyncpg.Pool]:
    """The database of the bookings."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=4) as pool:
        yield pool


@tool(effect=Effect.ONCE)
async def book(order: str, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Book an order."""
    await pool.execute("insert into bookings values ($1)", context.idempotency_key)
    return f"{order} is booked"
