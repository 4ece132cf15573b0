"""Notices reach whoever listens, also after the listening connection was lost."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from devstack.postgres import EmbeddedPostgres, PostgresSettings
from state.notices import LOOK_AGAIN, Notices
from state.pool import Database

KILL_THE_OTHERS = """
select count(pg_terminate_backend(pid)) from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()
"""


class Heard:
    """What a callback was told, and a way to wait for it."""

    def __init__(self) -> None:
        self.payloads: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, payload: str) -> None:
        self.payloads.put_nowait(payload)

    async def next(self) -> str:
        async with asyncio.timeout(20):
            return await self.payloads.get()


@pytest.fixture
def channel() -> str:
    return f"test_{uuid.uuid4().hex[:12]}"


async def announce(database: Database, channel: str, payload: str) -> None:
    await database.execute("select pg_notify($1, $2)", channel, payload)


async def test_a_notice_reaches_every_callback_of_its_channel_and_no_other(database: Database, channel: str) -> None:
    first, second, other = Heard(), Heard(), Heard()
    notices = Notices(database)
    notices.on(channel, first)
    notices.on(channel, second)
    notices.on(f"{channel}_other", other)
    async with notices.open():
        assert [await each.next() for each in (first, second, other)] == [LOOK_AGAIN] * 3
        await announce(database, channel, "one")
        await announce(database, channel, "two")
        assert [await first.next(), await first.next()] == ["one", "two"]
        assert [await second.next(), await second.next()] == ["one", "two"]
        assert other.payloads.empty()


async def test_a_channel_can_be_asked_for_while_listening(database: Database, channel: str) -> None:
    heard = Heard()
    notices = Notices(database)
    async with notices.open():
        notices.on(channel, heard)
        assert await heard.next() == LOOK_AGAIN
        await announce(database, channel, "one")
        assert await heard.next() == "one"


async def test_a_callback_that_fails_does_not_keep_the_notice_from_the_others(database: Database, channel: str) -> None:
    calls: list[str] = []

    def fails(payload: str) -> None:
        calls.append(payload)
        raise ValueError("a mistake")

    heard = Heard()
    notices = Notices(database)
    notices.on(channel, fails)
    notices.on(channel, heard)
    async with notices.open():
        assert await heard.next() == LOOK_AGAIN
        await announce(database, channel, "one")
        assert await heard.next() == "one"
    assert calls == [LOOK_AGAIN, "one"]


async def test_a_killed_connection_is_replaced_and_every_callback_is_told_to_look_again(new_database_url: str, channel: str) -> None:
    heard = Heard()
    async with Database.open(new_database_url) as database:
        notices = Notices(database)
        notices.on(channel, heard)
        async with notices.open(), database.listener() as own:
            assert await heard.next() == LOOK_AGAIN
            killed = await own.fetchval(KILL_THE_OTHERS)
            assert killed >= 1
            assert await heard.next() == LOOK_AGAIN
            await own.execute("select pg_notify($1, 'after')", channel)
            assert await heard.next() == "after"


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A server of this test's own, to be taken down."""
    postgres = EmbeddedPostgres(PostgresSettings())
    async with postgres.running():
        yield postgres


async def test_listening_goes_on_when_the_server_comes_back(server: EmbeddedPostgres, channel: str) -> None:
    heard = Heard()
    async with Database.open(server.dsn) as database:
        notices = Notices(database)
        notices.on(channel, heard)
        async with notices.open():
            assert await heard.next() == LOOK_AGAIN
            await server.kill()
            await server.start()
            assert await heard.next() == LOOK_AGAIN
            await announce(database, channel, "after")
            assert await heard.next() == "after"


async def test_a_pool_connection_inherits_no_listener(database: Database, channel: str) -> None:
    heard = Heard()
    notices = Notices(database)
    notices.on(channel, heard)
    async with notices.open():
        assert await heard.next() == LOOK_AGAIN
    async with asyncio.TaskGroup() as tasks:
        listening = [tasks.create_task(database.fetch("select pg_listening_channels() as channel")) for _ in range(10)]
    assert not [row for each in listening for row in each.result()]
