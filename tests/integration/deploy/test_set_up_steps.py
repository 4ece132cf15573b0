"""The one-shot steps and the health check of a deployment, as processes, on real servers."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from devstack import search_attributes
from devstack.stack import RunningStack
from workflows.agent_run import AgentRun
from workflows.contracts.names import SEARCH_ATTRIBUTES

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
WAIT_S = 60


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    out: str
    err: str


async def run(*command: str, **environment: str) -> Ended:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
    )
    out, err = await asyncio.wait_for(started.communicate(), WAIT_S)
    return Ended(started.returncode or 0, out.decode(), err.decode())


@pytest.fixture
async def empty_database(stack: RunningStack) -> AsyncIterator[str]:
    name = f"deploy_{uuid.uuid4().hex[:8]}"
    connection = await asyncpg.connect(stack.database_url)
    await connection.execute(f'create database "{name}"')
    try:
        yield urlsplit(stack.database_url)._replace(path=f"/{name}").geturl()
    finally:
        await connection.execute(f'drop database "{name}" with (force)')
        await connection.close()


async def test_the_migration_names_what_it_applies_once_and_then_nothing(empty_database: str) -> None:
    missing = await run("-m", "state", "--check", DATABASE_URL=empty_database)
    applied = await run("-m", "state", DATABASE_URL=empty_database)
    again = await run("-m", "state", DATABASE_URL=empty_database)
    checked = await run("-m", "state", "--check", DATABASE_URL=empty_database)

    names = [path.stem for path in sorted((ROOT / "state/migrations").glob("*.sql"))]
    assert (missing.code, missing.out.split()[1::2]) == (1, names)
    assert (applied.code, applied.out.split()[1::2]) == (0, names)
    assert (again.code, again.out) == (0, "the database is up to date\n")
    assert (checked.code, checked.out) == (0, "")


async def test_migrations_at_once_apply_each_file_once(empty_database: str) -> None:
    ended = await asyncio.gather(*(run("-m", "state", DATABASE_URL=empty_database) for _ in range(3)))
    assert [each.code for each in ended] == [0, 0, 0]
    assert sum(each.out.count("applied ") for each in ended) == len(list((ROOT / "state/migrations").glob("*.sql")))


async def test_the_migration_takes_its_password_from_the_environment_and_never_shows_it(empty_database: str) -> None:
    parts = urlsplit(empty_database)
    without = parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", "@")).geturl()
    right = await run("-m", "state", DATABASE_URL=without, PGPASSWORD=parts.password or "")
    wrong = await run("-m", "state", DATABASE_URL=empty_database.replace(f":{parts.password}@", ":not-the-password@"))
    assert right.code == 0
    assert wrong.code == 1
    assert "refuses us" in wrong.err
    assert "not-the-password" not in wrong.err


async def test_the_migration_says_what_is_missing_when_it_is_called_wrongly() -> None:
    ended = await run("-m", "state")
    assert ended.code == 2
    assert "DATABASE_URL" in ended.err


async def test_the_namespace_and_its_search_attributes_are_made_once(stack: RunningStack) -> None:
    environment = {
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "TEMPORAL_NAMESPACE": f"deploy-{uuid.uuid4().hex[:8]}",
        "DATABASE_URL": stack.database_url,
    }
    made = await run(str(DEPLOY / "prepare_namespace.py"), **environment)
    again = await run(str(DEPLOY / "prepare_namespace.py"), **environment)
    assert (made.code, again.code) == (0, 0), made.err + again.err
    assert ": made" in made.out
    assert all(name in made.out for name in SEARCH_ATTRIBUTES)
    assert "there already" in again.out
    assert "none" in again.out
    client = await Client.connect(stack.temporal_address, namespace=environment["TEMPORAL_NAMESPACE"])
    assert await search_attributes.missing(client, SEARCH_ATTRIBUTES) == {}


async def test_the_namespace_refuses_a_retention_that_is_none(stack: RunningStack) -> None:
    ended = await run(
        str(DEPLOY / "prepare_namespace.py"),
        TEMPORAL_ADDRESS=stack.temporal_address,
        DATABASE_URL=stack.database_url,
        HOLDFAST_RETENTION_DAYS="forever",
    )
    assert ended.code == 2
    assert "HOLDFAST_RETENTION_DAYS" in ended.err


async def test_the_health_check_knows_whether_this_machines_worker_asks_for_work(stack: RunningStack, client: Client) -> None:
    queue = f"deploy-{uuid.uuid4().hex[:8]}"
    environment = {
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "TEMPORAL_NAMESPACE": stack.namespace,
        "DATABASE_URL": stack.database_url,
        "HOLDFAST_TASK_QUEUE": queue,
    }
    before = await run(str(DEPLOY / "healthcheck.py"), **environment)
    elsewhere = await Client.connect(stack.temporal_address, namespace=stack.namespace, identity="1@another-machine")
    async with Worker(elsewhere, task_queue=queue, workflows=[AgentRun]):
        await asks(elsewhere, queue)
        foreign = await run(str(DEPLOY / "healthcheck.py"), **environment)
    async with Worker(client, task_queue=queue, workflows=[AgentRun]):
        await asks(client, queue)
        healthy = await run(str(DEPLOY / "healthcheck.py"), **environment)
    assert (before.code, foreign.code, healthy.code) == (1, 1, 0), healthy.err
    assert f"the worker on {socket.gethostname()}" in before.err


async def test_the_health_check_ends_with_a_reason_when_temporal_is_away(stack: RunningStack) -> None:
    ended = await run(str(DEPLOY / "healthcheck.py"), TEMPORAL_ADDRESS="127.0.0.1:1", DATABASE_URL=stack.database_url)
    assert ended.code == 1
    assert "cannot be reached" in ended.err


async def asks(client: Client, queue: str) -> None:
    """Wait until Temporal knows the client's worker as one that asks for work."""
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=queue), task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
    )
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                known = (await client.workflow_service.describe_task_queue(request)).pollers
            except RPCError:
                known = []
            if any(poller.identity == client.identity for poller in known):
                return
            await asyncio.sleep(0.05)
