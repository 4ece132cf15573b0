"""Agents that wait for people, on the session's stack, each test with a worker of its own and a model that is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.run import Run
from devstack.stack import RunningStack
from state.inbox import Decided, Waiting
from testkit.environment import AgentEnvironment
from tests.integration.environments import WITHIN_S as WITHIN_S
from tests.integration.environments import Open as Open
from tests.integration.environments import opening
from tests.integration.environments import until as until
from tests.integration.state.conftest import new_database_url as new_database_url

AGENTS = Path(__file__).with_name("agents")


@pytest.fixture
async def opened(stack: RunningStack) -> AsyncIterator[Open]:
    async with opening(stack, AGENTS) as open_one:
        yield open_one


async def waiting(env: AgentEnvironment, run: Run, count: int = 1) -> tuple[Waiting, ...]:
    """What the run asks, once the inbox has all of it and the run knows who may decide."""

    async def listed() -> tuple[Waiting, ...]:
        return await env.holdfast.inbox.list(run=run.id)

    return await until(listed, lambda found: len(found) == count)


async def record(env: AgentEnvironment, run: Run, count: int) -> tuple[Decided, ...]:
    """The audit record, once it is so long."""
    return await until(lambda: env.holdfast.inbox.decisions(run.id), lambda found: len(found) >= count)
