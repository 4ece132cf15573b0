"""A script of doubles and an engine that runs on it, fresh for every test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from tests.workflow.scripted import Engine, Script, serving


@pytest.fixture
def script() -> Script:
    """What models and tools do in this test."""
    return Script()


@pytest.fixture
async def engine(client: Client, task_queue: str, script: Script) -> AsyncIterator[Engine]:
    """The real workflow on the real server, with scripted activities."""
    async with serving(client, task_queue, script):
        yield Engine(client, task_queue, script)
