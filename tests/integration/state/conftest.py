"""Databases of their own for tests that need one: new, or migrated and guarded."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from devstack.stack import RunningStack
from state.migrate import migrate
from state.pool import Database

GUARD = """
alter table runs
    add constraint never_over_budget check (spent_usd + reserved_usd <= cost_limit_usd),
    add constraint never_below_nothing check (spent_usd >= 0 and reserved_usd >= 0 and unknown_usd between 0 and spent_usd)
"""
"""The database itself watches the books after every statement, in whatever order statements come."""


@pytest.fixture
async def new_database_url(stack: RunningStack) -> AsyncIterator[str]:
    """An empty database on the shared server."""
    async with new_database(stack) as url:
        yield url


@contextlib.asynccontextmanager
async def new_database(stack: RunningStack) -> AsyncIterator[str]:
    """An empty database on the shared server, for the length of the block."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    maintenance = await asyncpg.connect(stack.database_url)
    try:
        await maintenance.execute(f"create database {name}")
        yield urlunsplit(urlsplit(stack.database_url)._replace(path=f"/{name}"))
        await maintenance.execute(f"drop database {name} with (force)")
    finally:
        await maintenance.close()


@pytest.fixture
async def guarded_url(new_database_url: str) -> str:
    """A migrated database that refuses books in which spent and reserved pass the limit."""
    await migrate(new_database_url)
    connection = await asyncpg.connect(new_database_url)
    try:
        await connection.execute(GUARD)
    finally:
        await connection.close()
    return new_database_url


@pytest.fixture
async def guarded(guarded_url: str) -> AsyncIterator[Database]:
    """A pool on it, wide enough for many at once."""
    async with Database.open(guarded_url, max_size=40) as opened:
        yield opened
