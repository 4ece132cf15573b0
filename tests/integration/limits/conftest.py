"""A migrated database of a test's own, with rows of limits that nobody else touches."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from state.migrate import migrate
from state.pool import Database
from tests.integration.limits.clock import Clock
from tests.integration.state.conftest import new_database_url as new_database_url


@pytest.fixture
async def limits_url(new_database_url: str) -> str:
    await migrate(new_database_url)
    return new_database_url


@pytest.fixture
async def limits_database(limits_url: str) -> AsyncIterator[Database]:
    async with Database.open(limits_url, max_size=20) as opened:
        yield opened


@pytest.fixture
async def limits_clock(limits_database: Database) -> Clock:
    """The limits' clock, which stands still until the test moves it."""
    return await Clock.put_into(limits_database)
