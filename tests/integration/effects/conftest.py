"""The cashier's agents on the session's stack, and a till of their own for every test."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from activities.inference.providers.scripted import Script, ScriptedModel
from client.run import Run
from devstack.stack import RunningStack
from testkit.environment import AgentEnvironment, open_environment
from workflows.contracts.runs import RunStatus

T = TypeVar("T")

WITHIN_S = 60.0


class Open(Protocol):
    """Opens an environment in which the model gives these answers."""

    async def __call__(self, *answers: Script) -> AgentEnvironment: ...


@pytest.fixture
async def opened(stack: RunningStack) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as exits:

        async def open_one(*answers: Script) -> AgentEnvironment:
            folder = Path(__file__).with_name("agents")
            return await exits.enter_async_context(open_environment(stack, agents=[folder], model=ScriptedModel(answers)))

        yield open_one


@pytest.fixture
def order() -> str:
    """A business key that no other test uses."""
    return f"W{uuid.uuid4().hex[:8]}"


async def until(found: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    async with asyncio.timeout(WITHIN_S):
        while True:
            value = await found()
            if wanted(value):
                return value
            await asyncio.sleep(0.05)


async def status_of(run: Run, status: RunStatus) -> None:
    await until(run.status, lambda found: found is status)
