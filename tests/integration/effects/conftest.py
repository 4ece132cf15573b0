"""The cashier's agents on the session's stack, and a till of their own for every test."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from client.run import Run
from devstack.stack import RunningStack
from tests.integration.environments import Open as Open
from tests.integration.environments import opening
from tests.integration.environments import until as until
from workflows.contracts.runs import RunStatus

WITHIN_S = 60.0


@pytest.fixture
async def opened(stack: RunningStack) -> AsyncIterator[Open]:
    async with opening(stack, Path(__file__).with_name("agents")) as open_one:
        yield open_one


@pytest.fixture
def order() -> str:
    """A business key that no other test uses."""
    return f"W{uuid.uuid4().hex[:8]}"


async def status_of(run: Run, status: RunStatus) -> None:
    await until(run.status, lambda found: found is status, WITHIN_S)
