"""Agents that wait for people, on the session's stack, each test with a worker of its own and a model that is scripted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from activities.inference.providers.scripted import Script, ScriptedModel
from client.run import Run
from devstack.stack import RunningStack
from state.inbox import Decided, Waiting
from testkit.environment import AgentEnvironment, open_environment
from tests.integration.state.conftest import new_database_url as new_database_url

T = TypeVar("T")

WITHIN_S = 30.0
AGENTS = Path(__file__).with_name("agents")


class Open(Protocol):
    """Opens an environment in which the model gives these answers."""

    async def __call__(self, *answers: Script, agents: Path = AGENTS) -> AgentEnvironment: ...


@pytest.fixture
async def opened(stack: RunningStack) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as exits:

        async def open_one(*answers: Script, agents: Path = AGENTS) -> AgentEnvironment:
            return await exits.enter_async_context(open_environment(stack, agents=[agents], model=ScriptedModel(answers)))

        yield open_one


async def until(found: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    """Look until it is as wanted."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            value = await found()
            if wanted(value):
                return value
            await asyncio.sleep(0.05)


async def waiting(env: AgentEnvironment, run: Run, count: int = 1) -> tuple[Waiting, ...]:
    """What the run asks, once the inbox has all of it and the run knows who may decide."""

    async def listed() -> tuple[Waiting, ...]:
        return await env.holdfast.inbox.list(run=run.id)

    return await until(listed, lambda found: len(found) == count)


async def record(env: AgentEnvironment, run: Run, count: int) -> tuple[Decided, ...]:
    """The audit record, once it is so long."""
    return await until(lambda: env.holdfast.inbox.decisions(run.id), lambda found: len(found) >= count)
