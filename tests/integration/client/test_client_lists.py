"""Finding runs and agents."""

from __future__ import annotations

import uuid

import pytest

from activities.inference.providers.scripted import tool_call
from testkit.environment import AgentEnvironment
from tests.integration.client.conftest import WITHIN_S, WRONG_KEY, Open, status_of, until
from workflows.contracts.errors import FailureClass, InvalidInputError
from workflows.contracts.runs import RunStatus


@pytest.fixture
async def listed(opened: Open) -> AgentEnvironment:
    return await opened("One.", tool_call("helper", request="x"), "Two.", "Three.", WRONG_KEY)


async def test_runs_are_listed_by_what_they_are(listed: AgentEnvironment):
    holdfast, tenant = listed.holdfast, f"t-{uuid.uuid4().hex[:8]}"
    odd = 'O\'Brien \\ "x" %'
    first = await holdfast.start("desk", "x", tenant=tenant, user=odd)
    await first.result(timeout_s=WITHIN_S)
    second = await holdfast.start("desk", "x", tenant=tenant, user="u2")
    await second.result(timeout_s=WITHIN_S)
    parked = await holdfast.start("helper", "x", tenant=tenant, user="u2")
    await status_of(parked, RunStatus.PARKED)
    found = await until(lambda: holdfast.list(tenant=tenant, sub_runs=True), lambda runs: len(runs) == 4 and bool(runs[0].failure_class))

    assert [run.id for run in await holdfast.list(tenant=tenant)] == [parked.id, second.id, first.id]
    assert [run.id for run in await holdfast.list(tenant=tenant, user=odd)] == [first.id]
    assert [run.id for run in await holdfast.list(tenant=tenant, agent="helper")] == [parked.id]
    assert [run.id for run in await holdfast.list(tenant=tenant, status="completed")] == [second.id, first.id]
    assert [run.id for run in await holdfast.list(tenant=tenant, status=RunStatus.PARKED)] == [parked.id]
    assert [run.id for run in await holdfast.list(tenant=tenant, limit=1)] == [parked.id]
    assert await holdfast.list(tenant=tenant, status="failed") == ()
    assert [run.parent_run_id for run in found if run.parent_run_id] == [second.id]
    assert (found[0].failure_class, found[-1].status, found[-1].user) == (FailureClass.CALLER, RunStatus.COMPLETED, odd)
    assert found[-1].cost_usd
    with pytest.raises(InvalidInputError, match=r"no status 'asleep'.*running"):
        await holdfast.list(status="asleep")


async def test_agents_are_listed_with_their_tools(opened: Open):
    found = {agent.name: agent for agent in await (await opened()).holdfast.agents()}

    assert [tool.name for tool in found["desk"].tools] == ["find_order", "refund", "wait"]
