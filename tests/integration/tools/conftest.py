"""The desk, opened for one test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from state import effects
from state.pool import Database
from tests.integration.tools.desk import Desk


@pytest.fixture
async def desk(database: Database, long_ago: None) -> AsyncIterator[Desk]:
    opened = Desk(database)
    yield opened
    await opened.close()


@pytest.fixture(scope="session")
async def long_ago(database: Database) -> None:
    """Wait until the server runs for longer than a lease: right after its start every holder counts as alive."""
    await database.execute(
        "select pg_sleep(greatest(0, extract(epoch from pg_postmaster_start_time() + make_interval(secs => $1) - clock_timestamp())))",
        effects.LEASE_S,
    )
