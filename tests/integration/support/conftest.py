"""The example's shop in a real PostgreSQL, fresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from devstack.postgres import EmbeddedPostgres, PostgresSettings
from examples.support.shop import Shop
from examples.support.shop_data import ShopData, load_shop
from examples.support.shop_tables import create_shop

EXAMPLE = Path(__file__).parents[3] / "examples" / "support"


@pytest.fixture(scope="session")
async def shop_dsn() -> AsyncIterator[str]:
    server = EmbeddedPostgres(PostgresSettings())
    async with server.running():
        yield server.dsn


@pytest.fixture(scope="session")
def shop_data() -> ShopData:
    return load_shop(EXAMPLE / "shop.json")


@pytest.fixture
async def shop(shop_dsn: str, shop_data: ShopData) -> AsyncIterator[Shop]:
    await create_shop(shop_dsn, shop_data)
    async with Shop.open(shop_dsn) as opened:
        yield opened


@dataclass
class Written:
    """Rows as runs and the shop write them."""

    pool: asyncpg.Pool
    tenant: str

    async def run(self, run_id: str, *ancestors: str) -> str:
        await self.pool.execute(
            "insert into runs (run_id, tenant, agent, definition_hash, body_hash, ancestors, cost_limit_usd) "
            "values ($1, $2, 'a', 'h', 'b', $3, 1)",
            *(run_id, self.tenant, list(ancestors)),
        )
        return run_id

    async def question(self, run_id: str, order_id: str, *, state: str = "settled", amount_usd: str = "60.00") -> None:
        await self.pool.execute(
            "insert into questions (run_id, step, asked, call_id, kind, model_step, tenant, agent, tool, arguments, risk, named, allowed, "
            "quorum, not_by_user, since, voting_since, state) "
            "values ($1, 9, 1, 'c', 'approval', 8, $2, 'a', 'refund', $3, 'high', '{}', '{}', 1, false, now(), now(), $4)",
            *(run_id, self.tenant, f'{{"order_id": "{order_id}", "amount_usd": "{amount_usd}"}}', state),
        )

    async def decision(self, run_id: str, order: str, outcome: str = "accepted") -> None:
        await self.pool.execute(
            "insert into decisions (run_id, tenant, at, order_name, channel, by, call_id, step, outcome) "
            "values ($1, $2, now(), $3, 'signal', 'mara', 'c', 9, $4)",
            *(run_id, self.tenant, order, outcome),
        )

    async def letter(self, run_id: str, state: str) -> None:
        await self.pool.execute(
            "insert into dead_letters (run_id, letter, step, tenant, agent, agent_version, definition_hash, model, limits, failure_class, "
            "cause, what, parked_at, state) values ($1, 1, 9, $2, 'a', '1', 'h', 'm', '{}', 'unknown_outcome', 'c', 'w', now(), $3)",
            *(run_id, self.tenant, state),
        )

    async def refund(self, run_id: str, order_id: str, amount_usd: int, key: str = "k") -> None:
        await self.pool.execute(
            "insert into shop.refunds (order_id, amount_usd, method, reason, idempotency_key, run_id) values ($1, $2, 'm', 'r', $3, $4)",
            *(order_id, amount_usd, key, run_id),
        )
