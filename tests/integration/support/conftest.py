"""The example's shop in a real PostgreSQL, fresh for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

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
