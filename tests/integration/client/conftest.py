"""The client on the session's stack, with a worker of its own for every test and a model that is scripted."""

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
from testkit.environment import AgentEnvironment, open_environment
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.runs import RunStatus

T = TypeVar("T")

WITHIN_S = 30.0
WRONG_KEY = StepError("the key is wrong", failure_class=FailureClass.CALLER)
AGENTS = Path(__file__).with_name("agents")


class Open(Protocol):
    """Opens an environment in which the model gives these answers."""

    async def __call__(self, *answers: Script, agents: Path = AGENTS) -> AgentEnvironment: ...


@pytest.fixture
async def opened(stack: RunningStack) -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as exits:

        async def open_one(*answers: Script, agents: Path = AGENTS) -> AgentEnvironment:
            model = ScriptedModel(answers)
            return await exits.enter_async_context(open_environment(stack, agents=[agents], model=model))

        yield open_one


async def until(found: Callable[[], Awaitable[T]], wanted: Callable[[T], bool]) -> T:
    async with asyncio.timeout(WITHIN_S):
        while True:
            value = await found()
            if wanted(value):
                return value
            await asyncio.sleep(0.05)


async def status_of(run: Run, status: RunStatus) -> None:
    await until(run.status, lambda found: found is status)
