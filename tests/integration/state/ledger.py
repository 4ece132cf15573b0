"""The books of model calls as the tests write and read them: runs, plans, responses, and what the database holds of them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import asyncpg

from state import model_calls, runs, transcripts
from state.model_calls import Begun, Plan, SubRun
from state.pool import Database
from state.runs import Books, NewRun
from workflows.contracts.agents import AgentDefinition, Limits
from workflows.contracts.messages import FinishReason, Message, ModelResponse, Price, Role, Usage
from workflows.contracts.steps import Appendix, ModelCallRequest

PLAN = Plan(
    provider="openai",
    model="gpt-5-mini",
    reason="named by the agent",
    worker="w1",
    overhead_tokens=0,
    estimate_factor=1,
    window_tokens=10_000,
    max_output_tokens=100,
    min_output_tokens=10,
    input_usd=Decimal(0),
    output_usd=Decimal("0.001"),
)
"""A call reserves 0.10 USD: 100 tokens of output, and input for nothing."""
WORST_USD = Decimal("0.100")


def plan(**fields: Any) -> Plan:
    """The plan, changed."""
    return replace(PLAN, **fields)


def new_id(prefix: str = "books") -> str:
    """An id that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


async def new_run(database: Database, cost_usd: Decimal | float | str = 1, text: str = "hello") -> str:
    """A run of its own, with its first message."""
    run_id = new_id()
    new = NewRun(run_id, "default", "support", "hash", None, None, "body", Decimal(str(cost_usd)))
    await runs.create(database, new, Message(role=Role.USER, text=text))
    return run_id


def request(run_id: str, step: int = 1, cost_usd: Decimal | float | str = 1, appendices: Sequence[Appendix] = ()) -> ModelCallRequest:
    """A model call; the limit is written to the books when it begins."""
    pinned = AgentDefinition(name="support", instructions="Help.", limits=Limits(cost_usd=Decimal(str(cost_usd)))).pin()
    return ModelCallRequest(run_id=run_id, step=step, agent=pinned, tenant="default", appendices=tuple(appendices))


async def begin(database: Database, run_id: str, step: int = 1, *, cost_usd: Decimal | float | str = 1, **fields: Any) -> Begun:
    """Reserve."""
    return await model_calls.begin(database, request(run_id, step, cost_usd), plan(**fields))


async def finish(
    database: Database,
    call_id: int,
    cost_usd: Decimal | float | str = "0.02",
    *,
    step: int = 1,
    text: str = "the answer",
    sub_runs: Sequence[SubRun] = (),
) -> dict[str, Any]:
    """Record a response; its turn tells which call it is of."""
    response = ModelResponse(
        model="gpt-5-mini-2026",
        text=text,
        finish=FinishReason.STOP,
        usage=Usage(input_tokens=20, cached_input_tokens=5, cache_write_tokens=3, output_tokens=7),
        request_id=f"req-{call_id}",
    )
    return await model_calls.finish(
        database,
        call_id,
        turn={"call": call_id},
        response=response,
        price=Price(cost_usd=Decimal(str(cost_usd)), version="table 1"),
        rows=[transcripts.row(step, Message(role=Role.ASSISTANT, text=text))],
        sub_runs=tuple(sub_runs),
    )


def sub_run(run_id: str, cost_usd: Decimal | float | str = 1) -> SubRun:
    """A run that a turn founds."""
    return SubRun(run_id, "helper", "hash", Decimal(str(cost_usd)), Message(role=Role.USER, text=f"do your part, {run_id}"))


async def found(database: Database, parent: str, children: Sequence[SubRun], step: int = 1) -> None:
    """Let a parent's free model call found sub-runs."""
    begun = await begin(database, parent, step, cost_usd=(await books(database, parent)).cost_limit_usd, output_usd=Decimal(0))
    await finish(database, begun.call_id, 0, step=step, sub_runs=children)


async def books(database: Database, run_id: str) -> Books:
    """A run's money."""
    return await runs.books(database, run_id)


async def money(database: Database, run_id: str) -> tuple[Decimal, Decimal, Decimal]:
    """(spent, reserved, unknown) of a run."""
    found = await books(database, run_id)
    return found.spent_usd, found.reserved_usd, found.unknown_usd


async def states(database: Database, run_id: str) -> list[str]:
    """The state of each attempt, in order."""
    return [charge.state for charge in await model_calls.charges(database, run_id)]


async def one_waits_for(holder: asyncpg.Connection) -> None:
    """Wait until another connection is blocked by a lock that this one holds."""
    blocked = "select exists (select from pg_stat_activity where pg_backend_pid() = any(pg_blocking_pids(pid)))"
    async with asyncio.timeout(10):
        while True:
            if await holder.fetchval(blocked):
                return
            await asyncio.sleep(0.01)
