"""A house for a test that kills: a stack, a simulated provider, workers as processes, a client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from client.orchestrator import Orchestrator
from client.settings import Settings
from devstack.process import ServerProcess
from devstack.stack import RunningStack
from testkit.processes import SimulatedUrls, addresses, provider_process, worker_process

AGENTS = Path(__file__).parent / "agents"
SCHEMA = """
create table if not exists payments (order_id text, idempotency_key text, paid_at timestamptz not null default now());
create table if not exists gates (name text primary key);
"""
"""No unique key: a payment done twice must be seen, not prevented."""
PROVIDER_KEY = "acceptance-key-of-no-worth"
WAIT_S = 60.0
POLL_S = 0.05


@dataclass
class House:
    """What a test works with; workers are started and killed at will."""

    stack: RunningStack
    folder: Path
    urls: SimulatedUrls
    settings: Settings
    holdfast: Orchestrator
    exits: contextlib.AsyncExitStack
    agents: Sequence[Path] = (AGENTS,)
    workers: list[ServerProcess] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the house's processes."""
        kept = {name: value for name, value in os.environ.items() if name not in ("TEMPORAL_ADDRESS", "DATABASE_URL")}
        return (
            kept
            | addresses(self.stack)
            | {
                "HOLDFAST_TASK_QUEUE": self.settings.task_queue,
                "ACCEPTANCE_PROVIDER_URL": self.urls.openai,
                "ACCEPTANCE_PROVIDER_KEY": PROVIDER_KEY,
            }
        )

    async def start_worker(self, agents: Sequence[Path] = ()) -> ServerProcess:
        """Start a worker that serves when this returns."""
        name = f"worker-{len(self.workers)}"
        started = await self.exits.enter_async_context(worker_process(list(agents or self.agents), self.environ, self.folder, name))
        self.workers.append(started)
        return started

    async def journal(self) -> list[dict[str, Any]]:
        """Every request that the provider has seen."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.urls.control}/journal") as answer:
            return list(await answer.json())

    async def rows(self, sql: str, *args: Any) -> list[dict[str, Any]]:
        """Rows of the database, read past Holdfast."""
        connection = await asyncpg.connect(self.settings.database_url)
        try:
            return [dict(row) for row in await connection.fetch(sql, *args)]
        finally:
            await connection.close()

    async def execute(self, sql: str, *args: Any) -> None:
        """Change the database, past Holdfast."""
        connection = await asyncpg.connect(self.settings.database_url)
        try:
            await connection.execute(sql, *args)
        finally:
            await connection.close()


async def until(condition: Callable[[], Awaitable[Any]], what: str, timeout_s: float = WAIT_S) -> Any:
    """Wait for a condition to hold; its value. Fails the test by its name when it takes too long."""
    started = time.monotonic()
    while True:
        found = await condition()
        if found:
            return found
        if time.monotonic() - started > timeout_s:
            pytest.fail(f"waited {timeout_s:g} s in vain until {what}")
        await asyncio.sleep(POLL_S)


@contextlib.asynccontextmanager
async def open_house(stack: RunningStack, folder: Path, options: Sequence[str] = ()) -> AsyncIterator[House]:
    """Everything but the workers."""
    settings = Settings(
        temporal_address=stack.temporal_address,
        namespace=stack.namespace,
        database_url=stack.database_url,
        task_queue=f"acceptance-{uuid.uuid4().hex[:8]}",
    )
    async with contextlib.AsyncExitStack() as exits:
        environ = addresses(stack)
        urls = await exits.enter_async_context(
            provider_process("tests.acceptance.policy:answer", dict(os.environ) | environ, folder, options)
        )
        holdfast = await exits.enter_async_context(Orchestrator.connect(settings))
        house = House(stack, folder, urls, settings, holdfast, exits)
        await house.execute(SCHEMA)
        yield house


@pytest.fixture
async def house(stack: RunningStack, tmp_path: Path) -> AsyncIterator[House]:
    """A house on the session's stack; the provider answers after 0.3 s."""
    async with open_house(stack, tmp_path, ["--latency", "*,first_token_s=0.3"]) as opened:
        yield opened
