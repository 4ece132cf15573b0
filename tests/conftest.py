"""What every test may ask for: one real stack for the whole session, a client of it, its database, and a task queue of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import hypothesis
import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from devstack.stack import RunningStack
from state.pool import Database


def pytest_configure() -> None:
    """Tests never write into the servers that the environment names, and no property test is held to a time."""
    hypothesis.settings.register_profile("holdfast", deadline=None)
    hypothesis.settings.load_profile("holdfast")
    for name in ("DATABASE_URL", "TEMPORAL_ADDRESS"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def stack(holdfast_stack: RunningStack) -> RunningStack:
    """PostgreSQL and Temporal of our own, shared by all tests, gone afterwards. A test that takes a server down opens its own."""
    return holdfast_stack


@pytest.fixture(scope="session")
async def client(stack: RunningStack) -> Client:
    """A client with the converter that workers and clients share."""
    return await Client.connect(stack.temporal_address, namespace=stack.namespace, data_converter=pydantic_data_converter)


@pytest.fixture(scope="session")
async def database(stack: RunningStack) -> AsyncIterator[Database]:
    """The shared stack's database; tests keep apart by the ids of their runs."""
    async with Database.open(stack.database_url) as opened:
        yield opened


@pytest.fixture
def task_queue(request: pytest.FixtureRequest) -> str:
    """A queue that no other test polls."""
    return f"{request.node.name[:60]}-{uuid.uuid4().hex[:8]}"
