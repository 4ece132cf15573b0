"""The pytest plugin: `holdfast_env` runs your agents on a real Temporal server and a real PostgreSQL, with a scripted model.

It is loaded with every pytest session in which Holdfast is installed, so it imports the rest only when a fixture is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from devstack.stack import RunningStack
    from testkit.environment import AgentEnvironment


@pytest.fixture(scope="session")
def holdfast_stack() -> Iterator[RunningStack]:
    """Temporal and PostgreSQL for the whole session; nothing is left behind."""
    from testkit.stack import session_stack

    with session_stack() as stack:
        yield stack


@pytest.fixture
async def holdfast_env(holdfast_stack: RunningStack, request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """`env = await holdfast_env(agents=…, model=ScriptedModel([…]), time_skipping=False)`: an `AgentEnvironment` until the test ends.

    `agents` is a folder, or several, relative to the test's file.
    """
    from testkit.environment import open_environment

    async with contextlib.AsyncExitStack() as exits:

        async def opened(**options: Any) -> AgentEnvironment:
            agents = options.pop("agents")
            folders = [agents] if isinstance(agents, str | Path) else list(agents)
            here = request.path.parent
            return await exits.enter_async_context(
                open_environment(holdfast_stack, agents=[here / folder for folder in folders], **options)
            )

        yield opened
