"""A worker process whose tool acts, says so, and then waits to be killed."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from state.pool import Database
from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.people import UndoRequest
from workflows.contracts.steps import ToolRunRequest
from workflows.contracts.tools import Provided, Provider, Tool, ToolContext, provide, tool

TABLE = "create table if not exists dying_worker_acts (order_id text not null, key text not null)"
IN_CHILD = "REQUEST" in os.environ


async def _act(database: Database, order_id: str, key: str) -> str:
    await database.execute("insert into dying_worker_acts (order_id, key) values ($1, $2)", order_id, key)
    if IN_CHILD:
        sys.stdout.write("acted\n")
        sys.stdout.flush()
        await asyncio.Event().wait()
    return "paid"


async def _was_paid(order_id: str, database: Provided[Database]) -> str | None:
    found = await database.fetchval("select true from dying_worker_acts where order_id = $1", order_id)
    return "was paid" if found else None


@tool(effect=Effect.IDEMPOTENT)
async def pay_idempotent(order_id: str, context: ToolContext, database: Provided[Database]) -> str:
    """Pay, again if need be."""
    return await _act(database, order_id, context.idempotency_key)


@tool(effect=Effect.ONCE)
async def pay_once(order_id: str, context: ToolContext, database: Provided[Database]) -> str:
    """Pay once."""
    return await _act(database, order_id, context.idempotency_key)


@tool(effect=Effect.ONCE, check=_was_paid)
async def pay_checked(order_id: str, context: ToolContext, database: Provided[Database]) -> str:
    """Pay once, and be able to say so."""
    return await _act(database, order_id, context.idempotency_key)


async def _take_back(order_id: str, context: ToolContext, database: Provided[Database]) -> str:
    return await _act(database, f"back {order_id}", context.idempotency_key)


@tool(effect=Effect.ONCE, undo=_take_back)
async def pay_undoable(order_id: str) -> str:
    """Pay, and be able to take it back."""
    return "paid"


TOOLS: dict[str, Tool[..., Any]] = {one.spec.name: one for one in (pay_idempotent, pay_once, pay_checked, pay_undoable)}


def database_provider(database: Database) -> Provider:
    """Give the tools this database."""

    @provide
    async def given() -> AsyncIterator[Database]:
        yield database

    return given


async def main() -> None:
    """Run the one request of REQUEST: a tool call, or an undo."""
    given = os.environ["REQUEST"]
    async with Database.open(os.environ["DATABASE_URL"], min_size=1, max_size=2) as database:
        desk = Desk(database)
        worker = desk.worker(*TOOLS.values(), providers=[database_provider(database)])
        if "effect" in json.loads(given):
            await Attempt().undo(worker, UndoRequest.model_validate_json(given))
        else:
            await desk.attempt(worker, ToolRunRequest.model_validate_json(given))


if __name__ == "__main__":
    asyncio.run(main())
