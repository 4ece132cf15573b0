"""The connection pool every repository shares, and the one place where the database's outages get their name."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import asyncpg.pool

from workflows.contracts.errors import SettingsError, UnavailableError

COMMAND_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

_OUTAGES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a statement on a connection that the server has ended and not closed yet
    asyncpg.OperatorInterventionError,  # shut down, starting up, a statement or a connection ended by an operator
    asyncpg.InsufficientResourcesError,  # no room on the disk, in memory, for a connection
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,  # a server that was taken over from, and is a replica now
)


_REFUSALS = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


class DatabaseUnavailableError(UnavailableError):
    """The database cannot be reached, or can do nothing for us just now."""


class TransactionUndoneError(DatabaseUnavailableError):
    """The database undid a transaction that stood in another's way, as in a deadlock: nothing of it happened, it is to be asked again."""


@contextlib.contextmanager
def outages_named() -> Iterator[None]:
    """Turn what a lost, unreachable or overfull database raises into `DatabaseUnavailableError`, a refused address into `SettingsError`."""
    try:
        yield
    except _REFUSALS as error:
        raise SettingsError(f"The database refuses us ({error}): correct DATABASE_URL.") from error
    except asyncpg.TransactionRollbackError as error:
        raise TransactionUndoneError(f"The database undid a transaction ({type(error).__name__}).") from error
    except _OUTAGES as error:
        raise DatabaseUnavailableError(f"The database cannot be reached ({type(error).__name__}).") from error


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=_to_json, decoder=json.loads, schema="pg_catalog")


async def _keep(_connection: asyncpg.Connection) -> None:
    """Leave a connection as it is when it goes back to the pool.

    asyncpg would send a round trip of four statements after each of ours, to undo what sessions can set. Nobody here sets any of it.
    """


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Database:
    """A pool of connections that decodes jsonb and names outages."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, dsn: str, *, min_size: int = 2, max_size: int = 10) -> AsyncIterator[Database]:
        """Open a pool for as long as the context lasts.

        Raises:
            DatabaseUnavailableError: the database does not answer.
        """
        with outages_named():
            pool = await asyncpg.create_pool(
                dsn,
                min_size=min_size,
                max_size=max_size,
                command_timeout=COMMAND_TIMEOUT_S,
                timeout=CONNECT_TIMEOUT_S,
                init=_prepare,
                reset=_keep,
            )
        try:
            yield cls(pool)
        finally:
            pool.terminate()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection in one transaction."""
        with outages_named():
            async with self._pool.acquire(timeout=CONNECT_TIMEOUT_S) as connection, connection.transaction():
                yield connection

    @contextlib.asynccontextmanager
    async def listener(self) -> AsyncIterator[Connection]:
        """One connection kept for listening, and thrown away afterwards: the pool's others must not inherit what it listens to."""
        with outages_named():
            connection = await self._pool.acquire(timeout=CONNECT_TIMEOUT_S)
            try:
                yield connection
            finally:
                connection.terminate()
                await self._pool.release(connection)

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """All rows."""
        with outages_named():
            return await self._pool.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        """The first row, or None."""
        with outages_named():
            return await self._pool.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        with outages_named():
            return await self._pool.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement; returns PostgreSQL's command tag."""
        with outages_named():
            return await self._pool.execute(sql, *args)
