"""People are told at least once, with a key to tell repetitions by; what cannot be told is tried again, and given up aloud."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web

from activities.inference.alerts import Alerts
from activities.people.outbox import Outbox
from state import notifications
from state.migrate import migrate
from state.pool import Database
from tests.integration.people.conftest import until
from workflows.contracts.inference import AlertSettings
from workflows.contracts.people_settings import NotifySettings

WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"
Hook = tuple[str, list[tuple[str, dict[str, Any]]]]


@pytest.fixture
async def own(new_database_url: str) -> AsyncIterator[Database]:
    await migrate(new_database_url)
    async with Database.open(new_database_url) as opened:
        yield opened


@contextlib.asynccontextmanager
async def hook(*statuses: int) -> AsyncIterator[Hook]:
    """A webhook that gives these statuses, then 200; and what it was posted, with the keys."""
    posted: list[tuple[str, dict[str, Any]]] = []
    left = list(statuses)

    async def take(request: web.Request) -> web.Response:
        posted.append((request.headers["Idempotency-Key"], await request.json()))
        return web.Response(status=left.pop(0) if left else 200)

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", posted
    finally:
        await runner.cleanup()


async def put(database: Database, key: str = "r:2:1:question") -> None:
    async with database.transaction() as connection:
        await notifications.put(connection, key, "question", "r", {"text": "desk waits"})


async def standing(database: Database) -> list[tuple[str, int]]:
    return [tuple(row) for row in await database.fetch("select state, attempts from notifications order by notification_id")]


def outbox(database: Database, settings: NotifySettings | None) -> Outbox:
    return Outbox(database, lambda: settings, Alerts(database, AlertSettings))


async def at_once(database: Database) -> None:
    """Let the pause before the next attempt be over."""
    await database.execute("update notifications set due_at = clock_timestamp() where state = 'waiting'")


async def test_a_webhook_and_a_program_are_told_once(own: Database, tmp_path: Path) -> None:
    file = tmp_path / "told.jsonl"
    async with hook() as (url, posted):
        settings = NotifySettings(webhook=url, command=(sys.executable, "-c", WRITE, str(file)))
        for _ in range(2):
            await put(own)
        async with outbox(own, settings).open(), outbox(own, settings).open():
            await until(lambda: standing(own), lambda found: found == [("delivered", 1)])
    assert [(key, body["key"], body["text"]) for key, body in posted] == [("r:2:1:question", "r:2:1:question", "desk waits")]
    assert [json.loads(line)["key"] for line in file.read_text(encoding="utf-8").splitlines()] == ["r:2:1:question"]


async def test_a_failed_delivery_is_tried_again_with_the_same_key_after_a_pause(own: Database) -> None:
    async with hook(500, 503) as (url, posted), httpx2.AsyncClient() as http:
        deliveries = outbox(own, NotifySettings(webhook=url))
        await put(own)
        assert await deliveries.deliver(http) == 1
        assert await deliveries.deliver(http) == 0, "it has a pause first"
        problem = await own.fetchval("select problem from notifications")
        for _ in range(2):
            await at_once(own)
            await deliveries.deliver(http)
    assert problem == "webhook answered 500"
    assert await standing(own) == [("delivered", 3)]
    assert {key for key, _ in posted} == {"r:2:1:question"}
    assert len(posted) == 3


async def test_what_cannot_be_told_is_given_up_after_a_bounded_number_of_attempts_and_reported(own: Database) -> None:
    await put(own)
    deliveries = outbox(own, NotifySettings(webhook="http://127.0.0.1:9/", attempts=2))
    async with httpx2.AsyncClient() as http:
        for _ in range(3):
            await at_once(own)
            await deliveries.deliver(http)
    assert await standing(own) == [("given_up", 2)]
    alert = deliveries._alerts._waiting.get_nowait()
    assert (alert.kind, alert.subject) == ("notification_given_up", "r:2:1:question")


async def test_what_a_dead_worker_had_claimed_is_told_by_another(own: Database) -> None:
    await put(own)
    (claimed,) = await notifications.claim(own, 10, lease_s=0.2)
    assert claimed.attempts == 1
    async with hook() as (url, posted), outbox(own, NotifySettings(webhook=url)).open():
        await until(lambda: standing(own), lambda found: found == [("delivered", 2)])
    assert len(posted) == 1


async def test_workers_that_claim_at_once_share_what_is_due(own: Database) -> None:
    for number in range(30):
        await put(own, f"r:{number}")
    claims = await asyncio.gather(*(notifications.claim(own, 10) for _ in range(5)))
    keys = [each.key for claim in claims for each in claim]
    assert len(keys) == len(set(keys)) == 30


async def test_a_worker_that_tells_nobody_leaves_it_to_others(own: Database) -> None:
    await put(own)
    async with httpx2.AsyncClient() as http:
        assert await outbox(own, None).deliver(http) == 0
    assert await standing(own) == [("waiting", 0)]


async def test_what_was_told_long_ago_is_forgotten(own: Database) -> None:
    for key in ("old", "new", "waiting"):
        await put(own, key)
    await own.execute("update notifications set state = 'delivered', ended_at = clock_timestamp() where key <> 'waiting'")
    await own.execute("update notifications set ended_at = clock_timestamp() - interval '31 days' where key = 'old'")
    await own.execute("update notifications set created_at = clock_timestamp() - interval '90 days' where key = 'waiting'")
    await notifications.forget(own)
    assert [row["key"] for row in await own.fetch("select key from notifications order by key")] == ["new", "waiting"]
