"""The tools of the acceptance tests; what they do is seen in tables of their own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import asyncpg

from holdfast import Effect, Provided, ToolContext, provide, tool


@provide
async def connections() -> AsyncIterator[asyncpg.Pool]:
    """The database of the payments."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=4) as pool:
        yield pool


@tool
async def look_up(number: int) -> str:
    """Look a number up."""
    return f"number {number} is {number * number}"


@tool(effect=Effect.ONCE, key="order_id")
async def pay(order_id: str, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Pay an order."""
    await pool.execute("insert into payments (order_id, idempotency_key) values ($1, $2)", order_id, context.idempotency_key)
    return f"{order_id} paid"


@tool(effect=Effect.ONCE, key="order_id", timeout_s=120)
async def pay_slowly(order_id: str, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Pay an order, then wait until the gate of its name is open."""
    await pool.execute("insert into payments (order_id, idempotency_key) values ($1, $2)", order_id, context.idempotency_key)
    while not await pool.fetchval("select exists (select from gates where name = $1)", order_id):  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.05)
    return f"{order_id} paid at last"
