"""The client on the session's stack, with a worker of its own for every test and a model that is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.run import Run
from devstack.stack import RunningStack
from tests.integration.environments import WITHIN_S as WITHIN_S
from tests.integration.environments import Open as Open
from tests.integration.environments import opening
from tests.integration.environments import until as until
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.runs import RunStatus

WRONG_KEY = StepError("the key is wrong", failure_class=FailureClass.CALLER)
AGENTS = Path(__file__).with_name("agents")


@pytest.fixture
async def opened(stack: RunningStack) -> AsyncIterator[Open]:
    async with opening(stack, AGENTS) as open_one:
        yield open_one


async def status_of(run: Run, status: RunStatus) -> None:
    await until(run.status, lambda found: found is status)
