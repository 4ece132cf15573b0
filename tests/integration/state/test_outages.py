"""A database that goes away is named, and found again when it is back, without a restart of ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from devstack.postgres import EmbeddedPostgres, PostgresSettings
from devstack.stack import RunningStack
from state import model_calls
from state.migrate import migrate
from state.pool import Database, DatabaseUnavailableError, TransactionUndoneError
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


def farewell() -> bytes:
    """What a server that is shut down sends to each connection before it closes it."""
    body = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


class Line:
    """A way to the server on which a farewell can be sent, without the close that follows it."""

    def __init__(self, dsn: str) -> None:
        self._server = urlsplit(dsn)
        self._to_clients: list[asyncio.StreamWriter] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """The address to connect to."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            user = self._server.netloc.rpartition("@")[0]
            yield urlunsplit(self._server._replace(netloc=f"{user}@127.0.0.1:{port}"))
            for writer in self._to_clients:
                writer.close()

    def say_farewell(self) -> int:
        """Send it on every connection; on how many."""
        for writer in self._to_clients:
            writer.write(farewell())
        return len(self._to_clients)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._to_clients.append(writer)
        await asyncio.gather(self._pass_on(reader, to_server), self._pass_on(from_server, writer))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                writer.write(data)
        writer.close()


async def test_a_statement_after_the_servers_farewell_finds_an_outage_and_not_a_mistake(stack: RunningStack) -> None:
    line = Line(stack.database_url)
    async with line.open() as dsn, Database.open(dsn, min_size=1, max_size=1) as database:
        assert await database.fetchval("select 1") == 1
        assert line.say_farewell() == 1
        await asyncio.sleep(0.2)
        with pytest.raises(DatabaseUnavailableError) as named:
            await database.fetchval("select 1")
        assert isinstance(named.value.__cause__, asyncpg.InternalClientError), "the driver has closed it: the farewell alone was not met"


async def test_a_server_that_is_down_from_the_start_is_named(server: EmbeddedPostgres) -> None:
    await server.stop()
    with pytest.raises(DatabaseUnavailableError):
        async with Database.open(server.dsn):
            pass


@pytest.mark.parametrize("code", ["53100", "53200", "57014", "57P05", "58030", "25006"])
async def test_what_the_server_cannot_do_just_now_is_an_outage(database: Database, code: str) -> None:
    with pytest.raises(DatabaseUnavailableError):
        await database.execute(f"do $$ begin raise exception using errcode = '{code}'; end $$")


@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_transaction_that_was_undone_is_to_be_asked_again(database: Database, code: str) -> None:
    with pytest.raises(TransactionUndoneError):
        await database.execute(f"do $$ begin raise exception using errcode = '{code}'; end $$")


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
