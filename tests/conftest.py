"""What every test may ask for: one real stack for the whole session, a client of it, its database, and a task queue of its own."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from devstack.stack import RunningStack, StackSettings, open_stack
from state.pool import Database

SERVERS_OF_THE_USER = frozenset({"DATABASE_URL", "TEMPORAL_ADDRESS"})
"""Tests never write into servers that the environment names."""


@pytest.fixture(scope="session")
async def stack() -> AsyncIterator[RunningStack]:
    """PostgreSQL and Temporal of our own, shared by all tests, gone afterwards. A test that takes a server down opens its own."""
    environment = {name: value for name, value in os.environ.items() if name not in SERVERS_OF_THE_USER}
    async with open_stack(StackSettings(ui_port=None, environment=environment)) as running:
        yield running


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
