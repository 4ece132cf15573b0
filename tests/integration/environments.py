"""Environments that a test opens as often as it likes, and a wait for what becomes so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from activities.inference.providers.scripted import Script, ScriptedModel
from devstack.stack import RunningStack
from testkit.environment import AgentEnvironment, open_environment

T = TypeVar("T")

WITHIN_S = 30.0


class Open(Protocol):
    """Opens an environment in which the model gives these answers; `agents` is a folder other than the tests' own."""

    async def __call__(self, *answers: Script, agents: Path | None = None) -> AgentEnvironment: ...


@contextlib.asynccontextmanager
async def opening(stack: RunningStack, own: Path) -> AsyncIterator[Open]:
    """For the length of the block; all that was opened is closed at its end."""
    async with contextlib.AsyncExitStack() as exits:

        async def open_one(*answers: Script, agents: Path | None = None) -> AgentEnvironment:
            return await exits.enter_async_context(open_environment(stack, agents=[agents or own], model=ScriptedModel(answers)))

        yield open_one


async def until(found: Callable[[], Awaitable[T]], wanted: Callable[[T], bool], within_s: float = WITHIN_S) -> T:
    """Look until it is as wanted."""
    async with asyncio.timeout(within_s):
        while True:
            value = await found()
            if wanted(value):
                return value
            await asyncio.sleep(0.05)
