"""A run as telemetry sees it: the real AgentRun workflow, with activities that answer by the agent's name and open the real spans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import structlog
from opentelemetry import trace
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from activities.edge import EdgeInterceptor
from telemetry.spans import model_call_span, tool_span
from tests.workflow.scripted import Script
from workflows.agent_run import AgentRun
from workflows.contracts import names, policies
from workflows.contracts.agents import AgentDefinition, PinnedAgent, ToolKind
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, ModelResponse, Usage
from workflows.contracts.runs import RunInput, RunOutcome
from workflows.contracts.steps import ModelCallRequest, ModelTurn, ToolCallRef, ToolOutcome, ToolRunRequest, TurnKind

log = structlog.get_logger("tests.telemetry")

USAGE = Usage(input_tokens=100, cached_input_tokens=40, output_tokens=10)
COST = Decimal("0.25")
PLANTED = "sk-ant-api03-PLANTEDplanted1234567890"
CONTENT = "the customer lives in Rotterdam"
FAILED_ONCE: Counter[str] = Counter()
"""How often `call_model` failed for a run, so that a test can say that the fault fired."""


def agent(name: str) -> PinnedAgent:
    return AgentDefinition(name=name, model="simulated:sim-1", instructions=CONTENT).pin()


@activity.defn(name=names.CALL_MODEL)
async def call_model(request: ModelCallRequest) -> ModelTurn:
    """`flaky` fails once; `boss` calls the agent `helper`, `worker` and `careful` call the tool `look_up` first; then all answer."""
    first = request.step == 1
    with model_call_span(provider="simulated", model="sim-1", agent=request.agent.name, max_output_tokens=64) as span:
        if request.agent.name == "flaky" and activity.info().attempt == 1:
            FAILED_ONCE[request.run_id] += 1
            raise StepError(f"overloaded, with {PLANTED}", failure_class=FailureClass.TRANSIENT, code="529", retry_after_s=0.01)
        finish = FinishReason.TOOL_CALLS if first else FinishReason.STOP
        response = ModelResponse(model="sim-1-2026", text=CONTENT, finish=finish, usage=USAGE, request_id="req-1", simulated=True)
        span.record_usage(USAGE, COST, response=response)
    log.info("model.answered", text=CONTENT, key=PLANTED)
    calls: tuple[ToolCallRef, ...] = ()
    if first and request.agent.name in ("worker", "careful"):
        careful = request.agent.name == "careful"
        calls = (ToolCallRef(step=2, call_id="c1", name="look_up", arguments_hash="h", needs_approval=careful),)
    if first and request.agent.name == "boss":
        calls = (ToolCallRef(step=2, call_id="c1", name="helper", kind=ToolKind.AGENT, arguments_hash="h", agent=agent("helper")),)
    kind = TurnKind.TOOLS if calls else TurnKind.FINAL
    return ModelTurn(
        kind=kind,
        model="sim-1",
        calls=calls,
        usage=USAGE,
        cost_usd=COST,
        unknown_usd=COST / 2 if request.agent.name == "flaky" else Decimal(0),
        step=request.step,
        last_step=request.step + len(calls),
        simulated=True,
    )


@activity.defn(name=names.RUN_TOOL)
async def run_tool(request: ToolRunRequest) -> ToolOutcome:
    with tool_span(request.name, call_id=request.call_id) as span:
        trace.get_current_span().add_event(f"asked the shop with {PLANTED}", {"shop.note": f"uses {PLANTED}"})
        span.record_outcome(ok=True)
    return ToolOutcome(ok=True, result_hash="r", result_bytes=2)


@workflow.defn(sandboxed=False)
class Continuing:
    """Continues as new until nothing is left."""

    @workflow.run
    async def run(self, left: int) -> int:
        if left:
            workflow.continue_as_new(left - 1)
        return left


BUGS: Counter[str] = Counter()


@workflow.defn(sandboxed=False)
class Buggy:
    """Its first task fails by a bug; it is told how often."""

    @workflow.run
    async def run(self) -> int:
        BUGS[workflow.info().workflow_id] += 1
        if BUGS[workflow.info().workflow_id] == 1:
            raise RuntimeError(f"a bug, told with {PLANTED}")
        return BUGS[workflow.info().workflow_id]


def _the_rest() -> list[Callable[..., Any]]:
    """The scripted doubles of what else a run asks for, so that it can wait for people and end."""
    own = (names.CALL_MODEL, names.RUN_TOOL)
    return [double for double in Script().activities if activity._Definition.must_from_callable(double).name not in own]


def agent_worker(client: Client, task_queue: str, *, cached: int = 100) -> Worker:
    passed = SandboxRestrictions.default.with_passthrough_modules("workflows", "pydantic", "pydantic_core", "annotated_types")
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[AgentRun, Buggy, Continuing],
        activities=[call_model, run_tool, *_the_rest()],
        interceptors=[EdgeInterceptor()],
        workflow_runner=SandboxedWorkflowRunner(restrictions=passed),
        max_cached_workflows=cached,
        max_concurrent_workflow_task_polls=1 if cached == 0 else None,
    )


async def start_run(client: Client, task_queue: str, agent_name: str) -> WorkflowHandle[AgentRun, RunOutcome]:
    given = RunInput(run_id=task_queue, agent=agent(agent_name), tenant="acme")
    return await client.start_workflow(
        AgentRun.run, given, id=given.run_id, task_queue=task_queue, task_timeout=timedelta(seconds=policies.WORKFLOW_TASK_S)
    )
