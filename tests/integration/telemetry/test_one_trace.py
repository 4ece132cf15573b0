"""A run is one trace, told once, without content and without secrets."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.worker import Replayer
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

from telemetry.setup import Telemetry
from tests.integration.telemetry.agents import CONTENT, FAILED_ONCE, PLANTED, Buggy, Continuing, agent_worker, start_run
from tests.integration.telemetry.collector import Collector
from workflows.agent_run import AgentRun
from workflows.contracts.names import APPROVE
from workflows.contracts.people import Decision
from workflows.contracts.runs import RunOutcome


async def _run(client: Client, task_queue: str, agent_name: str, *, cached: int = 100) -> None:
    async with agent_worker(client, task_queue, cached=cached):
        handle = await start_run(client, task_queue, agent_name)
        async with asyncio.timeout(60):
            await handle.result()


async def test_one_trace_leads_from_the_client_through_workflow_and_activity_to_the_provider(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    await _run(traced_client, task_queue, "worker")
    assert await telemetry.aclose()

    start = collector.named("StartWorkflow:AgentRun")
    run = collector.named("invoke_agent worker")
    calls = [span for span in collector.spans if span.name == "RunActivity:call_model"]
    chats = [span for span in collector.spans if span.name == "chat sim-1"]
    tool, tool_attempt = collector.named("execute_tool look_up"), collector.named("RunActivity:run_tool")

    assert {span.trace for span in collector.spans} == {start.trace}
    assert start.parent == b""
    assert run.parent == start.id
    assert [call.parent for call in calls] == [run.id, run.id]
    assert {chat.parent for chat in chats} == {call.id for call in calls}
    assert (tool_attempt.parent, tool.parent) == (run.id, tool_attempt.id)
    assert run.duration_s >= max(call.duration_s for call in calls)
    assert len(collector.spans) == 8


async def test_spans_follow_the_conventions_for_generative_ai(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    await _run(traced_client, task_queue, "worker")
    assert await telemetry.aclose()

    chat = next(span for span in collector.spans if span.name == "chat sim-1" and span.attributes["holdfast.step"] == 1).attributes
    common = {"holdfast.run": task_queue, "gen_ai.conversation.id": task_queue, "gen_ai.agent.name": "worker", "holdfast.tenant": "acme"}
    assert chat == common | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "simulated",
        "gen_ai.request.model": "sim-1",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.response.model": "sim-1-2026",
        "gen_ai.response.id": "req-1",
        "gen_ai.response.finish_reasons": ["tool_calls"],
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.output_tokens": 10,
        "holdfast.cost_usd": 0.25,
        "holdfast.simulated": True,
        "holdfast.step": 1,
    }
    tool = collector.named("execute_tool look_up").attributes
    assert tool == common | {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "look_up",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "c1",
        "holdfast.tool.outcome": "ok",
        "holdfast.step": 2,
    }
    run = collector.named("invoke_agent worker").attributes
    assert run["gen_ai.operation.name"] == "invoke_agent"
    assert (run["holdfast.run.status"], run["gen_ai.usage.input_tokens"], run["holdfast.cost_usd"]) == ("completed", 200, 0.5)


async def test_nothing_is_told_twice_when_every_task_replays_the_history(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await _run(traced_client, task_queue, "worker", cached=0)
    history = await traced_client.get_workflow_handle(task_queue).fetch_history()
    replayer = Replayer(
        workflows=[AgentRun],
        interceptors=[interceptor for interceptor in telemetry.interceptors if hasattr(interceptor, "intercept_activity")],
        data_converter=traced_client.data_converter,
        workflow_runner=SandboxedWorkflowRunner(),
    )
    await replayer.replay_workflow(history)
    assert await telemetry.aclose()

    assert len([event for event in history.events if event.HasField("workflow_task_completed_event_attributes")]) >= 3
    assert len({span.id for span in collector.spans}) == len(collector.spans) == 8
    assert collector.named("invoke_agent worker").id in {span.parent for span in collector.spans}
    assert collector.last("holdfast.runs.started", gen_ai__agent__name="worker").value == 1
    assert collector.last("holdfast.runs.ended", gen_ai__agent__name="worker").value == 1
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert (events.count("run.started"), events.count("run.ended")) == (1, 1)


async def test_a_sub_agent_is_part_of_its_callers_trace(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    await _run(traced_client, task_queue, "boss")
    assert await telemetry.aclose()

    boss, helper = collector.named("invoke_agent boss"), collector.named("invoke_agent helper")
    assert (helper.trace, helper.parent) == (boss.trace, boss.id)
    assert helper.attributes["holdfast.run"] == f"{task_queue}.2"


async def _waiting_for_approval(handle: WorkflowHandle[AgentRun, RunOutcome]) -> None:
    async with asyncio.timeout(60):
        while True:
            if (await handle.query(AgentRun.view)).approvals:
                return
            await asyncio.sleep(0.02)


async def test_a_humans_decision_is_in_the_deciders_trace_and_linked_to_the_run(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    async with agent_worker(traced_client, task_queue):
        handle = await start_run(traced_client, task_queue, "careful")
        await _waiting_for_approval(handle)
        await handle.signal(APPROVE, Decision(by="a test"))
        async with asyncio.timeout(60):
            await handle.result()
    assert await telemetry.aclose()

    run = collector.named("invoke_agent careful")
    sent, handled = collector.named("SignalWorkflow:approve"), collector.named("HandleSignal:approve")
    assert (handled.trace, handled.parent, handled.links) == (sent.trace, sent.id, (run.id,))
    assert sent.trace != run.trace
    assert collector.named("execute_tool look_up").trace == run.trace


async def test_a_cancelled_run_is_told_as_cancelled(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    async with agent_worker(traced_client, task_queue):
        handle = await start_run(traced_client, task_queue, "careful")
        await _waiting_for_approval(handle)
        await handle.cancel()
        async with asyncio.timeout(60):
            with pytest.raises(WorkflowFailureError):
                await handle.result()
    assert await telemetry.aclose()

    assert collector.named("invoke_agent careful").attributes["error.type"] == "cancelled"
    assert collector.last("holdfast.runs.ended", gen_ai__agent__name="careful", holdfast__run__status="cancelled").value == 1


async def test_executions_that_continue_as_new_stand_side_by_side(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    async with agent_worker(traced_client, task_queue), asyncio.timeout(60):
        await traced_client.execute_workflow(Continuing.run, 2, id=task_queue, task_queue=task_queue)
    assert await telemetry.aclose()

    start = collector.named("StartWorkflow:Continuing")
    runs = [span for span in collector.spans if span.name == "RunWorkflow:Continuing"]
    assert [run.parent for run in runs] == [start.id] * 3
    assert sorted(str(run.attributes.get("holdfast.run.status")) for run in runs) == ["None", "continued", "continued"]


async def test_a_workflow_task_that_fails_by_a_bug_leaves_no_span_and_only_json_lines(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with agent_worker(traced_client, task_queue), asyncio.timeout(60):
        tries = await traced_client.execute_workflow(Buggy.run, id=task_queue, task_queue=task_queue, task_timeout=timedelta(seconds=1))
    assert tries == 2
    assert await telemetry.aclose()

    assert collector.named("RunWorkflow:Buggy").status == 0
    written = capfd.readouterr()
    assert "workflow task" not in written.out  # where the core writes when it is not told otherwise
    lines = [json.loads(line) for line in written.err.splitlines()]
    loggers = {line["logger"] for line in lines}
    assert "temporalio.core" in loggers
    assert any("RuntimeError: a bug, told with [redacted" in line.get("exception", "") for line in lines)
    assert PLANTED not in written.err


async def test_a_refused_start_is_a_failed_span(traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str) -> None:
    await start_run(traced_client, task_queue, "worker")
    with pytest.raises(WorkflowAlreadyStartedError):
        await start_run(traced_client, task_queue, "worker")
    await traced_client.get_workflow_handle(task_queue).terminate()
    assert await telemetry.aclose()

    starts = [span for span in collector.spans if span.name == "StartWorkflow:AgentRun"]
    assert [(span.status, span.attributes.get("error.type")) for span in starts] == [(0, None), (2, "WorkflowAlreadyStartedError")]


async def test_a_failed_attempt_is_a_span_of_its_own_and_a_count_by_class(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    await _run(traced_client, task_queue, "flaky")
    assert FAILED_ONCE[task_queue] == 1
    assert await telemetry.aclose()

    attempts = {span.attributes["holdfast.attempt"]: span for span in collector.spans if span.name == "RunActivity:call_model"}
    assert {number: span.status for number, span in attempts.items()} == {1: 2, 2: 0}
    assert attempts[1].attributes["error.type"] == "transient"
    failed = next(span for span in collector.spans if span.name == "chat sim-1" and span.status == 2)
    assert failed.attributes["error.type"] == "529"
    assert collector.last("holdfast.step.failures", holdfast__failure_class="transient", holdfast__retried=True).value == 1
    assert collector.last("gen_ai.client.operation.duration", error__type="529").value == 1
    assert collector.last("holdfast.steps", holdfast__outcome="failed").value == 1
    assert collector.last("holdfast.cost.unknown", gen_ai__agent__name="flaky").value == 0.125


async def test_no_secret_and_no_content_leaves_in_any_signal(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, agent_name in enumerate(("worker", "flaky")):
        await _run(traced_client, f"{task_queue}-{number}", agent_name)
    assert await telemetry.aclose()

    logged = capsys.readouterr().err
    assert "model.answered" in logged
    assert "asked the shop with [redacted:anthropic_key]" in collector.raw.decode("utf-8", "replace")
    for secret in (PLANTED, CONTENT):
        assert secret.encode() not in collector.raw
        assert secret not in logged
    answered = next(json.loads(line) for line in logged.splitlines() if "model.answered" in line)
    assert (answered["withheld"], answered["key"]) == (["text"], "[redacted:anthropic_key]")
    assert (answered["run"], answered["step"], answered["agent"], answered["tenant"]) == (f"{task_queue}-0", 1, "worker", "acme")
    traces = {span.trace.hex() for span in collector.spans}
    assert answered["trace_id"] in traces


async def test_metrics_of_ours_and_of_temporal_arrive_under_one_name(
    traced_client: Client, telemetry: Telemetry, collector: Collector, task_queue: str
) -> None:
    await _run(traced_client, task_queue, "worker")
    await collector.wait_for(lambda seen: any(point.metric.startswith("temporal_") for point in seen.points))
    assert await telemetry.aclose()

    assert {point.service for point in collector.points} == {"holdfast-test"}
    assert {headers.get("x-collector-key") for _, headers, _ in collector.requests} == {"abc def"}
    model = {"gen_ai__provider__name": "simulated", "gen_ai__request__model": "sim-1", "gen_ai__agent__name": "worker"}
    assert collector.last("gen_ai.client.token.usage", gen_ai__token__type="input", **model).total == 200
    assert collector.last("gen_ai.client.token.usage", gen_ai__token__type="output", **model).total == 20
    assert collector.last("holdfast.cost", **model).value == 0.5
    assert collector.last("gen_ai.client.operation.duration", **model).value == 2
    assert collector.last("holdfast.tool.duration", gen_ai__tool__name="look_up", holdfast__tool__outcome="ok").value == 1
    assert collector.last("holdfast.steps", holdfast__activity="call_model", holdfast__outcome="completed").value == 2
    assert collector.last("holdfast.wait.duration", holdfast__wait_for="worker").value == 3
    assert collector.last("holdfast.run.duration", gen_ai__agent__name="worker", holdfast__run__status="completed").value == 1
