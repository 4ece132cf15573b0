"""The play's lead: decides by plain signals once a question, and again only when the run has refused what was sent too early."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest
from rich.console import Console
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowHandle

from devstack.stack import RunningStack
from examples.support.demo.lead import NO, Lead
from examples.support.demo.screen import Screen
from holdfast import Orchestrator, Settings
from state.migrate import migrate
from tests.integration.support.conftest import Written
from workflows.contracts import names


@pytest.fixture
async def written(stack: RunningStack) -> AsyncIterator[Written]:
    await migrate(stack.database_url)
    async with asyncpg.create_pool(stack.database_url, min_size=1, max_size=2) as pool:
        yield Written(pool, f"demo-{uuid.uuid4().hex[:8]}")


@pytest.fixture
async def plain(stack: RunningStack) -> Client:
    """A client without any converter of ours."""
    return await Client.connect(stack.temporal_address, namespace=stack.namespace)


@pytest.fixture
async def lead(stack: RunningStack, plain: Client, written: Written) -> AsyncIterator[Lead]:
    settings = Settings(temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=stack.database_url)
    console = Console(file=io.StringIO(), width=118)
    async with Orchestrator.connect(settings) as orchestrator:
        yield Lead(orchestrator, plain, written.tenant, Screen(console, simulated=True))


@pytest.fixture
async def run(plain: Client, written: Written) -> AsyncIterator[WorkflowHandle[object, object]]:
    """A run that nobody serves: Temporal keeps what it is sent."""
    run_id = await written.run(f"{written.tenant}-run")
    handle = await plain.start_workflow(names.AGENT_RUN, id=run_id, task_queue=f"nobody-{run_id}")
    yield handle
    await handle.terminate()


async def _signals(run: WorkflowHandle[object, object]) -> list[tuple[str, dict[str, str]]]:
    signaled = EventType.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED
    events = [event async for event in run.fetch_history_events() if event.event_type == signaled]
    received = [event.workflow_execution_signaled_event_attributes for event in events]
    return [(each.signal_name, json.loads(each.input.payloads[0].data)) for each in received]


async def test_a_question_is_decided_once_and_what_was_refused_is_sent_again(
    lead: Lead, written: Written, run: WorkflowHandle[object, object]
) -> None:
    await written.question(run.id, "#W3004101", state="open")
    await lead.look()
    await lead.look()
    assert await _signals(run) == [("approve", {"call_id": "c", "by": "mara"})]

    await written.decision(run.id, "approve", "refused")
    await lead.look()
    await lead.look()
    assert len(await _signals(run)) == 2
    assert lead.orders == 2


async def test_a_large_amount_is_refused_with_the_reason(lead: Lead, written: Written, run: WorkflowHandle[object, object]) -> None:
    await written.question(run.id, "#W3004101", state="open", amount_usd="101.00")
    await lead.look()
    assert await _signals(run) == [("reject", {"call_id": "c", "by": "mara", "reason": NO})]
