"""An effect makes cached answers old in the transaction that enters its end; nothing that dies in between keeps one alive."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from activities.inference.cache import Lead, ResponseCache
from state import cache_reports, effects
from state.effects import Claim
from state.pool import Database
from state.response_cache import CacheKey, Selection
from tests.integration.inference.askers import COST_USD, answer, asked, key_of, worker
from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import StepError, ToolError
from workflows.contracts.tools import Tool, tool


class World:
    """The refunds that were made, and cached answers of the desk's tenant about orders."""

    def __init__(self, desk: Desk, cache: ResponseCache) -> None:
        self.desk = desk
        self.cache = cache
        self.agent = f"told-{uuid.uuid4().hex[:8]}"
        self.refunds: list[str] = []
        self.acted = asyncio.Event()
        self.goes_on: asyncio.Event | None = None
        self.fails: Exception | None = None

    def tool(self, effect: Effect = Effect.ONCE, **options: Any) -> Tool[..., Any]:
        @tool(effect=effect, invalidates=[f"{self.agent}:{{order_id}}"], **options)
        async def refund(order_id: str) -> str:
            """Pay an order back."""
            if self.fails:
                raise self.fails
            self.refunds.append(order_id)
            self.acted.set()
            if self.goes_on:
                await self.goes_on.wait()
            return f"{order_id} refunded"

        return refund

    def key(self, order_id: str, **fields: Any) -> CacheKey:
        owner = {"agent": self.agent, "tenant": self.desk.tenant} | fields
        return key_of(asked(f"Is {order_id} paid back?", owner["tenant"]), tags=(f"{self.agent}:{order_id}",), **owner)

    async def answered(self, *order_ids: str, **fields: Any) -> None:
        for order_id in order_ids:
            lead = await self.cache.look(self.key(order_id, **fields))
            assert isinstance(lead, Lead)
            assert await self.cache.keep(lead, answer(f"{order_id} is not."), COST_USD)

    async def left(self, database: Database) -> set[str]:
        """The orders that the cache still has an answer about."""
        entries = await cache_reports.entries(database, Selection(agent=self.agent), 50)
        return {tag.rpartition(":")[2] for entry in entries for tag in entry.tags}


@pytest.fixture
async def world(desk: Desk, database: Database) -> AsyncIterator[World]:
    async with worker(database) as cache:
        yield World(desk, cache)


async def test_an_effect_that_succeeds_throws_away_what_is_said_of_its_order_and_calls_off_who_asks(
    desk: Desk, world: World, database: Database
) -> None:
    await world.answered("W1", "W2")
    in_the_air = await world.cache.look(key_of(asked("And W1?"), agent=world.agent, tenant=desk.tenant, tags=(f"{world.agent}:W1",)))
    assert isinstance(in_the_air, Lead)
    refund = world.tool()
    assert (await desk.attempt(desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"}))).ok
    assert await world.left(database) == {"W2"}
    assert not await world.cache.keep(in_the_air, answer("of before"), COST_USD)


async def test_another_tenants_answers_stay_and_those_that_all_share_go(desk: Desk, world: World, database: Database) -> None:
    await world.answered("W1", tenant="another")
    refund = world.tool()
    await desk.attempt(desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"}))
    assert await world.left(database) == {"W1"}
    await world.answered("W2", scope="all")
    await desk.attempt(desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W2"}))
    assert await world.left(database) == {"W1"}


async def test_a_worker_that_dies_after_the_effect_leaves_no_old_answer(desk: Desk, world: World, database: Database) -> None:
    await world.answered("W1")
    refund, world.goes_on = world.tool(), asyncio.Event()
    tools, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    dead = Attempt().begin(tools, request)
    await world.acted.wait()
    assert await world.left(database) == {"W1"}, "it has not ended yet"
    await desk.end_leases()
    with pytest.raises(StepError, match="its worker ended before the tool did"):
        await desk.attempt(tools, request, attempt=2)
    assert world.refunds == ["W1"]
    assert await world.left(database) == set(), "it may well have been done"
    await world.answered("W1")
    assert await effects.rule(database, tenant=desk.tenant, tool="refund", key=f"{request.run_id}:2", ruling="done", by="ann")
    assert await world.left(database) == set(), "a person says that it was"
    world.goes_on.set()
    await dead


async def test_the_answers_go_in_the_transaction_that_enters_the_effect_as_done(desk: Desk, world: World, database: Database) -> None:
    await world.answered("W1")
    refund = world.tool()
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    claim = Claim(request, refund.spec, "token", "w")
    begun = await effects.begin(database, claim)
    await effects.will_invalidate(database, claim, begun.key, (f"{world.agent}:W1",))
    async with database.transaction() as connection:
        await connection.execute("update effects set state = 'succeeded' where tenant = $1", desk.tenant)
        assert await world.left(database) == {"W1"}, "nobody sees one without the other"
    assert await world.left(database) == set()


@pytest.mark.parametrize(("effect", "left"), [(Effect.ONCE, {"W1"}), (Effect.IDEMPOTENT, set())])
async def test_a_failure_makes_answers_old_only_where_half_of_it_may_be_done(
    desk: Desk, world: World, database: Database, effect: Effect, left: set[str]
) -> None:
    await world.answered("W1")
    refund, world.fails = world.tool(effect), ToolError("no such order")
    outcome = await desk.attempt(desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"}))
    assert not outcome.ok
    assert await world.left(database) == left


async def test_an_effect_that_was_done_before_throws_nothing_away_again(desk: Desk, world: World, database: Database) -> None:
    refund = world.tool(key="order_id")
    tools = desk.worker(refund)
    await desk.attempt(tools, await desk.asked(refund.spec, {"order_id": "W1"}))
    await world.answered("W1")
    again = await desk.attempt(tools, await desk.asked(refund.spec, {"order_id": "W1"}))
    assert (again.reused, world.refunds) == (True, ["W1"])
    assert await world.left(database) == {"W1"}
