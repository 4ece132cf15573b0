"""A database that goes away is named, and found again when it is back, without a restart of ours."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from devstack.postgres import EmbeddedPostgres, PostgresSettings
from state import model_calls
from state.migrate import migrate
from state.pool import Database, DatabaseUnavailableError
from tests.integration.state.ledger import begin, finish, new_run
from workflows.contracts.errors import UnavailableError

SLOW = "select pg_sleep(30)"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A server of this test's own, to be taken down."""
    postgres = EmbeddedPostgres(PostgresSettings())
    async with postgres.running():
        await migrate(postgres.dsn)
        yield postgres


async def in_transaction(database: Database) -> Any:
    async with database.transaction() as connection:
        return await connection.fetchval("select 1")


ASKING: list[Callable[[Database], Awaitable[Any]]] = [
    lambda database: database.fetchval("select 1"),
    lambda database: database.fetch("select 1"),
    lambda database: database.fetchrow("select 1"),
    lambda database: database.execute("select 1"),
    in_transaction,
]


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, EmbeddedPostgres.kill], ids=["stopped", "killed"])
async def test_an_outage_is_named_and_the_pool_finds_the_server_again(
    server: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], Awaitable[None]]
) -> None:
    async with Database.open(server.dsn) as database:
        run_id = await new_run(database)
        begun = await begin(database, run_id)
        in_mid_query = asyncio.create_task(database.fetchval(SLOW))
        await until_active(database, SLOW)
        await end(server)

        with pytest.raises(DatabaseUnavailableError):
            await in_mid_query
        for ask in ASKING:
            with pytest.raises(DatabaseUnavailableError, match="The database cannot be reached"):
                await ask(database)
        with pytest.raises(UnavailableError):
            await finish(database, begun.call_id)

        await server.start()
        for ask in ASKING:
            await ask(database)
        assert await finish(database, begun.call_id) == {"call": begun.call_id}, "what was acknowledged before is still there"
        assert [charge.state for charge in await model_calls.charges(database, run_id)] == ["recorded"]


async def test_a_server_that_is_down_from_the_start_is_named(server: EmbeddedPostgres) -> None:
    await server.stop()
    with pytest.raises(DatabaseUnavailableError):
        async with Database.open(server.dsn):
            pass


async def test_a_mistake_of_ours_is_no_outage(database: Database) -> None:
    with pytest.raises(asyncpg.UndefinedTableError):
        await database.fetchval("select 1 from nowhere")


async def until_active(database: Database, query: str) -> None:
    """Wait until the server is at work on a query."""
    async with asyncio.timeout(10):
        while True:
            if await database.fetchval("select exists (select from pg_stat_activity where state = 'active' and query = $1)", query):
                return
            await asyncio.sleep(0.01)
