"""Servers that go away under a client: what waits goes on, what was refused can be repeated, and the error names who is away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from activities.inference.providers.scripted import ScriptedModel, tool_call
from client.backend import open_backend
from client.events import RunEvent
from client.orchestrator import Orchestrator
from client.settings import Settings
from devstack.stack import RunningStack, StackSettings, open_stack
from testkit.environment import AgentEnvironment, open_environment
from tests.integration.client.conftest import AGENTS, until
from workflows.contracts.errors import SettingsError, UnavailableError

WITHIN_S = 60.0


@pytest.fixture(scope="module")
async def own_stack() -> AsyncIterator[RunningStack]:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "TEMPORAL_ADDRESS")}
    async with open_stack(StackSettings(ui_port=None, environment=environment)) as running:
        yield running


@pytest.fixture
async def env(own_stack: RunningStack) -> AsyncIterator[AgentEnvironment]:
    model = ScriptedModel([tool_call("wait", seconds=2), "At last.", "Again."])
    async with open_environment(own_stack, agents=[AGENTS], model=model) as opened:
        yield opened


async def test_waiting_for_a_result_outlasts_a_restart_of_temporal(env: AgentEnvironment, own_stack: RunningStack):
    run = await env.start("desk", "x")
    waiting = asyncio.create_task(run.result(timeout_s=WITHIN_S))
    await until(run.steps, lambda steps: len(steps) > 1)

    await own_stack.kill_temporal()
    with pytest.raises(UnavailableError, match=r"Temporal cannot be reached at 127\.0\.0\.1.*holdfast dev"):
        await run.status()
    assert not waiting.done()
    await own_stack.start_temporal()

    assert await waiting == "At last."


async def test_a_start_that_failed_is_repeated_with_the_same_key(env: AgentEnvironment, own_stack: RunningStack):
    request = {"agent": "desk", "input": "x", "idempotency_key": "one"}
    await own_stack.kill_temporal()
    with pytest.raises(UnavailableError, match="Temporal"):
        await env.holdfast.start(**request)
    await own_stack.start_temporal()

    run = await env.holdfast.start(**request)

    assert await run.result(timeout_s=WITHIN_S) == "At last."
    assert (await env.holdfast.start(**request)).id == run.id


async def test_events_go_on_after_a_restart_of_the_database(env: AgentEnvironment, own_stack: RunningStack):
    run = await env.start("desk", "x")
    told: list[RunEvent] = []

    async def listen() -> None:
        told.extend([event async for event in run.events()])

    listening = asyncio.create_task(listen())
    await until(run.steps, lambda steps: len(steps) > 1)
    await own_stack.kill_postgres()
    with pytest.raises(UnavailableError, match="database"):
        await env.holdfast.start("desk", "y")
    await own_stack.start_postgres()
    async with asyncio.timeout(WITHIN_S):
        await listening

    assert [event.step.step for event in told if event.kind == "step"] == [0, 1, 2, 3]
    assert await run.result() == "At last."


async def test_a_connection_names_the_server_that_is_away(own_stack: RunningStack):
    there = Settings(temporal_address=own_stack.temporal_address, database_url=own_stack.database_url)

    with pytest.raises(UnavailableError, match=r"Temporal cannot be reached at 127\.0\.0\.1:1,"):
        async with Orchestrator.connect(Settings(temporal_address="127.0.0.1:1", database_url=there.database_url)):
            pass
    with pytest.raises(UnavailableError, match=r"database cannot be reached.*DATABASE_URL"):
        async with Orchestrator.connect(Settings(temporal_address=there.temporal_address, database_url="postgresql://127.0.0.1:1/x")):
            pass


async def test_a_database_that_refuses_us_or_is_not_ours_is_told(own_stack: RunningStack):
    url = own_stack.database_url
    refused = {
        url.replace("/holdfast?", "/nothing?"): r'"nothing" does not exist.*DATABASE_URL',
        url.replace("//holdfast:", "//nobody:"): r'for user "nobody".*DATABASE_URL',
        url.replace("/holdfast?", "/template1?"): "no Holdfast tables yet",
    }
    assert url not in refused
    assert len(refused) == 3

    for wrong, said in refused.items():
        with pytest.raises(SettingsError, match=said):
            async with open_backend(Settings(temporal_address=own_stack.temporal_address, database_url=wrong)):
                pass
