"""Tools of all three kinds. What they do is a row in a table without any unique key: done twice is seen, not prevented."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import asyncpg

from holdfast import Effect, Provided, ToolContext, ToolError, provide, tool

DONE = "insert into done (tool, idempotency_key, run_id, undone) values ($1, $2, $3, $4)"


@provide
async def connections() -> AsyncIterator[asyncpg.Pool]:
    """The other side's database."""
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=4) as pool:
        yield pool


async def _do(name: str, context: ToolContext, pool: asyncpg.Pool, *, undone: bool = False) -> None:
    await pool.execute(DONE, name, context.idempotency_key, context.run_id, undone)


async def _was_done(name: str, context: ToolContext, pool: asyncpg.Pool) -> str | None:
    sql = "select exists (select from done where tool = $1 and idempotency_key = $2)"
    return "done" if await pool.fetchval(sql, name, context.idempotency_key) else None


@tool
async def look_up(number: int) -> str:
    """Look a number up."""
    return f"number {number} is {number * number}"


@tool(effect=Effect.IDEMPOTENT)
async def note_down(text: str, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Write a note; the same key again is the same note."""
    await _do("note_down", context, pool)
    return f"noted {text}"


async def unpay(context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Take a payment back."""
    await _do("unpay", context, pool, undone=True)
    return "taken back"


@tool(effect=Effect.ONCE, undo=unpay)
async def pay(order: str, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Pay; nobody can ask afterwards whether it was done."""
    await _do("pay", context, pool)
    return f"paid {order}"


async def pay_check(context: ToolContext, pool: Provided[asyncpg.Pool]) -> str | None:
    """Whether it was paid."""
    return await _was_done("pay_checked", context, pool)


@tool(effect=Effect.ONCE, check=pay_check)
async def pay_checked(order: str, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Pay where the other side can be asked."""
    await _do("pay_checked", context, pool)
    return f"paid {order}"


@tool(effect=Effect.ONCE)
async def refund(order: str, amount: int, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Pay back; above 50 two people must say yes."""
    await _do("refund", context, pool)
    return f"refunded {amount} for {order}"


@tool(effect=Effect.ONCE, key="order")
async def pay_shared(order: str, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Pay an order that several runs may want to pay."""
    await _do("pay_shared", context, pool)
    return f"paid {order}"


@tool(effect=Effect.ONCE)
async def stumble(order: str, times: int, context: ToolContext, pool: Provided[asyncpg.Pool]) -> str:
    """Pay, after breaking off some times before anything was done; below 0: say that it cannot be done."""
    if times < 0:
        raise ToolError("This order cannot be paid.")
    broke_off = await pool.fetchval("select count(*) from stumbles where idempotency_key = $1", context.idempotency_key)
    if broke_off < times:
        await pool.execute("insert into stumbles (idempotency_key) values ($1)", context.idempotency_key)
        raise ConnectionError("the other side hung up")
    await _do("stumble", context, pool)
    return f"paid {order}"
