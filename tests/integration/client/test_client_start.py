"""Starting runs: once per key, whatever happens in between, and refused with a clear word where it cannot be."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio.client import WorkflowExecutionStatus

from client import inputs
from client.backend import Backend
from client.orchestrator import Orchestrator
from state import runs
from testkit.environment import AgentEnvironment
from tests.integration.client.conftest import AGENTS, WITHIN_S, Open
from workflows.contracts.agents import Limits
from workflows.contracts.errors import (
    IdempotencyConflictError,
    InvalidInputError,
    SettingsError,
    UnknownAgentError,
    UnknownRunError,
)
from workflows.contracts.messages import Message, Role


def key() -> str:
    return f"ticket-{uuid.uuid4().hex[:8]}"


async def test_a_run_is_started_and_gives_its_answer(opened: Open):
    env = await opened("It was delivered.")

    run = await env.holdfast.start("desk", "Where is W17?", user="u1")

    assert await run.result(timeout_s=WITHIN_S) == "It was delivered."
    assert run.id.startswith("desk-")
    assert await (await env.holdfast.get(run.id)).result() == "It was delivered."
    assert await env.holdfast.result(run.id) == "It was delivered."


async def test_run_is_start_and_result_in_one(opened: Open):
    env = await opened('{"days": 3}')

    assert await env.holdfast.run("desk", {"order": "W17"}, as_=dict[str, int], timeout_s=WITHIN_S, user="u1") == {"days": 3}


async def test_the_same_key_and_body_is_the_same_run_and_is_paid_once(opened: Open):
    env = await opened("First.")
    same = key()

    first = await env.holdfast.start("desk", "Where is W17?", idempotency_key=same)
    while_it_goes_on = await env.holdfast.start("desk", "Where is W17?", idempotency_key=same)
    answer = await first.result(timeout_s=WITHIN_S)
    after_its_end = await env.holdfast.start("desk", "Where is W17?", idempotency_key=same)

    assert {while_it_goes_on.id, after_its_end.id} == {first.id}
    assert await after_its_end.result() == answer == "First."
    assert len(env.model.requests) == 1  # type: ignore[attr-defined]  # the scripted model keeps them


async def test_twenty_starts_at_once_with_one_key_are_one_run(opened: Open):
    env = await opened("Once.")
    same = key()

    started = await asyncio.gather(*(env.holdfast.start("desk", "Hello", idempotency_key=same) for _ in range(20)))

    assert len({run.id for run in started}) == 1
    assert await started[0].result(timeout_s=WITHIN_S) == "Once."


@pytest.mark.parametrize(
    "change",
    [{"input": "Where is W18?"}, {"agent": "helper"}, {"user": "u2"}, {"limits": Limits(steps=3)}, {"run_id": "mine", "input": "Else"}],
    ids=lambda change: next(iter(change)),
)
async def test_the_same_key_with_another_body_is_a_conflict(change: dict[str, object], opened: Open):
    env = await opened("First.")
    request: dict[str, object] = {"agent": "desk", "input": "Where is W17?", "user": "u1", "idempotency_key": key()}
    first = await env.holdfast.start(**request)  # type: ignore[arg-type]

    with pytest.raises(IdempotencyConflictError, match=rf"{request['idempotency_key']}.*{first.id}"):
        await env.holdfast.start(**(request | change))  # type: ignore[arg-type]


async def test_a_key_belongs_to_its_tenant(opened: Open):
    env = await opened("A.", "B.")
    same = key()

    one = await env.holdfast.start("desk", "x", tenant="a", idempotency_key=same)
    other = await env.holdfast.start("desk", "y", tenant="b", idempotency_key=same)

    assert one.id != other.id


async def test_a_run_id_of_the_callers_choice_is_kept_and_stands_for_one_request(opened: Open):
    env = await opened("Mine.")
    chosen = f"mine-{uuid.uuid4().hex[:8]}"

    run = await env.holdfast.start("desk", "x", run_id=chosen)

    assert run.id == chosen
    assert (await env.holdfast.start("desk", "x", run_id=chosen)).id == chosen
    with pytest.raises(IdempotencyConflictError, match=f"run id '{chosen}'"):
        await env.holdfast.start("desk", "y", run_id=chosen)
    with pytest.raises(IdempotencyConflictError):
        await env.holdfast.start("desk", "x", run_id=chosen, tenant="another")


async def test_a_start_that_crashed_half_way_is_repeated_with_the_definition_it_had(opened: Open, tmp_path: Path):
    """The row is written, then the client dies, then the agent is deployed anew: the repeated start goes on with the first."""
    env = await opened("Answered.")
    backend, same = env.holdfast._backend, key()
    before = await backend.definitions.current("desk")
    run_id = await _crashed_start(backend, same)

    shutil.copytree(AGENTS, tmp_path / "agents")
    changed = tmp_path / "agents" / "desk.yaml"
    changed.write_text(changed.read_text().replace("version: 1", "version: 2"))
    later = await opened(agents=tmp_path / "agents")
    run = await Orchestrator(replace(later.holdfast._backend, settings=env.holdfast.settings)).start(
        "desk", "Where is W17?", idempotency_key=same
    )

    assert run.id == run_id
    assert await run.result(timeout_s=WITHIN_S) == "Answered."
    assert (await later.holdfast._backend.definitions.current("desk")).version == "2"
    assert (await run.show()).definition_hash == before.content_hash()
    described = await env.client.get_workflow_handle(run.id).describe()
    assert before.content_hash()[:12] in (await described.static_details() or "")


async def _crashed_start(backend: Backend, same: str) -> str:
    desk = await backend.definitions.current("desk")
    new = runs.NewRun(
        run_id=inputs.keyed_run_id("desk", "default", same),
        tenant="default",
        agent="desk",
        definition_hash=desk.content_hash(),
        user=None,
        idempotency_key=same,
        body_hash=inputs.body_hash("desk", "Where is W17?", None, None),
        cost_limit_usd=desk.limits.cost_usd,
    )
    await runs.create(backend.database, new, Message(role=Role.USER, text="Where is W17?"))
    with pytest.raises(UnknownRunError):
        await Orchestrator(backend).cancel(new.run_id)
    return new.run_id


async def test_limits_of_one_run_hold_for_it(opened: Open):
    env = await opened("x")

    run = await env.holdfast.start("desk", "x", limits=Limits(steps=7))
    view = await run.view()

    assert view.limits.steps == 7


async def test_an_unknown_agent_is_refused_with_those_there_are(opened: Open):
    env = await opened()

    with pytest.raises(UnknownAgentError, match=r"desk.*Did you mean 'desk'"):
        await env.holdfast.start("desc", "x")


@pytest.mark.parametrize("change", [{"user": ""}, {"tenant": "a\nb"}, {"idempotency_key": "x" * 201}, {"run_id": "a.b"}])
async def test_a_name_that_cannot_be_kept_is_refused_by_its_field(change: dict[str, str], opened: Open):
    env = await opened()

    with pytest.raises(InvalidInputError, match=next(iter(change))):
        await env.holdfast.start("desk", "x", **change)  # type: ignore[arg-type]


async def test_a_secret_in_the_input_reaches_neither_temporal_nor_the_database(opened: Open):
    env = await opened("ok")
    secret = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"

    run = await env.holdfast.start("desk", f"my key is {secret}, use it")
    await run.result(timeout_s=WITHIN_S)
    history = await env.client.get_workflow_handle(run.id).fetch_history()

    assert secret not in history.to_json()
    database = env.holdfast._backend.database
    kept = await database.fetchval("select message::text from transcript where run_id = $1 and step = 0", run.id)
    assert "my key is" in kept
    assert secret not in kept


async def test_a_namespace_that_is_not_there_is_named(opened: Open, env_of_nowhere: AgentEnvironment):
    with pytest.raises(SettingsError, match=r"no namespace 'nowhere'.*TEMPORAL_NAMESPACE"):
        await env_of_nowhere.holdfast.start("desk", "x")


@pytest.fixture
async def env_of_nowhere(opened: Open) -> AgentEnvironment:
    env = await opened()
    settings = replace(env.holdfast.settings, namespace="nowhere")
    from client.temporal import connect_temporal

    backend = replace(env.holdfast._backend, settings=settings, temporal=await connect_temporal(settings))
    return replace(env, holdfast=Orchestrator(backend))


async def test_a_large_input_is_no_payload_of_temporal(opened: Open):
    env = await opened("Read.")

    run = await env.holdfast.start("desk", "ä" * 100_000)

    assert await run.result(timeout_s=WITHIN_S) == "Read."
    description = await env.client.get_workflow_handle(run.id).describe()
    assert description.status is WorkflowExecutionStatus.COMPLETED
    assert description.raw_description.workflow_execution_info.history_size_bytes < 20_000


TRACED = """
import asyncio, json, os
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from holdfast import Orchestrator

kept = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(kept))
trace.set_tracer_provider(provider)

async def main():
    async with Orchestrator.connect() as holdfast:
        with trace.get_tracer("shop").start_as_current_span("request"):
            await holdfast.start("desk", "hello")

asyncio.run(main())
print(json.dumps({span.name: [span.context.trace_id, bool(span.parent)] for span in kept.get_finished_spans()}), flush=True)
os._exit(0)
"""


async def test_a_program_that_traces_finds_its_runs_in_its_own_trace(opened: Open):
    env = await opened("Done.")
    settings = env.holdfast.settings
    environ = {
        **os.environ,
        "TEMPORAL_ADDRESS": settings.temporal_address,
        "DATABASE_URL": settings.database_url,
        "HOLDFAST_TASK_QUEUE": settings.task_queue,
    }

    program = await asyncio.create_subprocess_exec(sys.executable, "-c", TRACED, stdout=asyncio.subprocess.PIPE, env=environ)
    async with asyncio.timeout(WITHIN_S):
        told, _ = await program.communicate()

    spans = json.loads(told)
    assert set(spans) == {"request", "StartWorkflow:AgentRun"}
    assert spans["StartWorkflow:AgentRun"] == [spans["request"][0], True]
