"""Scripted doubles of the activities, under their real names, and the engine that runs workflows on them with time skipping."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import uuid
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from temporalio import activity
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker

from activities.edge import EdgeInterceptor
from tests.workflow.scripted_batches import ScriptedBatches
from worker import workflow_runner
from workflows import run_view
from workflows.agent_run import AgentRun
from workflows.contracts import names
from workflows.contracts.agents import AgentDefinition, Limits, Memory, PinnedAgent, ToolKind
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import Usage
from workflows.contracts.people import (
    Asked,
    AskRequest,
    CloseRequest,
    Edited,
    EditRequest,
    Filed,
    Note,
    RecordRequest,
    Undoable,
    UndoRequest,
    WithholdRequest,
)
from workflows.contracts.runs import RunInput, RunOutcome, RunView
from workflows.contracts.steps import (
    CompactOutcome,
    MemoryRequest,
    ModelCallRequest,
    ModelTurn,
    Recalled,
    ToolCallRef,
    ToolOutcome,
    ToolRunRequest,
    TurnKind,
)

WAIT_S = 20.0

Answer = Callable[[ModelCallRequest], "ModelTurn | Awaitable[ModelTurn]"]
ToolDoes = Callable[[ToolRunRequest], "str | ToolOutcome | Awaitable[str]"]
Handle = WorkflowHandle[AgentRun, RunOutcome]


@dataclass(frozen=True)
class Call:
    """One tool call that a scripted model asks for."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)

    def ref(self, step: int) -> ToolCallRef:
        """The call as the workflow sees it."""
        text = json.dumps(self.arguments, sort_keys=True)
        known = {"call_id": f"call_{step}", "preview": text, "arguments_hash": hashlib.sha256(text.encode()).hexdigest()[:16]}
        return ToolCallRef(step=step, name=self.name, **(known | self.fields))


def call(name: str, arguments: dict[str, Any] | None = None, **fields: Any) -> Call:
    """A function tool's call; `fields` are those of `ToolCallRef`."""
    return Call(name, arguments or {}, fields)


def call_agent(pinned: PinnedAgent, request: str = "do it") -> Call:
    """A call of another agent."""
    return Call(pinned.name, {"request": request}, {"kind": ToolKind.AGENT, "agent": pinned})


def hand_over(pinned: PinnedAgent) -> Call:
    """The conversation given to another agent."""
    return Call(f"hand_over_to_{pinned.name}", {"reason": "it knows"}, {"kind": ToolKind.HANDOFF, "agent": pinned})


def final(text: str = "done", **fields: Any) -> Answer:
    """An answer that ends the run."""
    return lambda request: _turn(request, kind=TurnKind.FINAL, preview=text, **fields)


def asks_for(*calls: Call, invalid_calls: int = 0, **fields: Any) -> Answer:
    """A turn with tool calls; `invalid_calls` more were malformed and have taken the steps after them."""

    def answer(request: ModelCallRequest) -> ModelTurn:
        refs = tuple(asked.ref(request.step + place) for place, asked in enumerate(calls, start=1))
        last = request.step + len(refs) + invalid_calls
        return _turn(request, kind=TurnKind.TOOLS, calls=refs, last_step=last, invalid_calls=invalid_calls, **fields)

    return answer


def invalid(reason: str = "not JSON") -> Answer:
    """A malformed answer; the model has been told."""
    return lambda request: _turn(request, kind=TurnKind.INVALID, reason=reason)


def no_call(kind: TurnKind, reason: str) -> Answer:
    """No model was called: the context or the budget has no room."""
    return lambda request: ModelTurn(kind=kind, reason=reason, step=request.step, last_step=request.step)


def fails(failure_class: FailureClass, message: str = "it failed", **fields: Any) -> Any:
    """A failing attempt, of a model call or of a tool."""

    def fail(_request: Any) -> Any:
        raise StepError(message, failure_class=failure_class, **fields)

    return fail


def _turn(request: ModelCallRequest, **fields: Any) -> ModelTurn:
    known = {
        "model": "scripted-model",
        "usage": Usage(input_tokens=100, output_tokens=10),
        "cost_usd": Decimal("0.001"),
        "step": request.step,
        "last_step": request.step,
        "simulated": True,
    }
    return ModelTurn(**(known | fields))


def agent(name: str = "support", *, model: str = "smart", memory: Memory | None = None, **limits: Any) -> PinnedAgent:
    """A pinned agent; keyword arguments are its limits."""
    definition = AgentDefinition(
        name=name, model=model, instructions="Help.", limits=Limits(**limits), memory=memory or Memory(), description=f"The {name} agent."
    )
    return definition.pin()


class Script:
    """What models and tools do in one test, and what they were asked."""

    def __init__(self) -> None:
        self.asked: list[ModelCallRequest] = []
        self.ran: list[ToolRunRequest] = []
        self.compacted: list[ModelCallRequest] = []
        self.remembered: list[MemoryRequest] = []
        self.recalled: list[MemoryRequest] = []
        self.questions: list[AskRequest] = []
        self.groups: dict[str, tuple[str, ...]] | None = {}
        """Who is in which; None while nobody can look it up."""
        self.edits: list[EditRequest] = []
        self.wrong_edits: dict[str, str] = {}
        """What is wrong with a person's arguments, answers or inputs."""
        self.notes: list[Note] = []
        self.filed: list[Filed] = []
        self.closed: list[CloseRequest] = []
        self.undoable: list[Undoable] = []
        self.undone: list[UndoRequest] = []
        self.withheld: list[WithholdRequest] = []
        self.batches = ScriptedBatches()
        self.compacts: Callable[[ModelCallRequest], CompactOutcome] = self._compacts
        self._answers: dict[str, deque[Answer]] = defaultdict(deque)
        self._always: dict[str, Answer] = {}
        self._tools: dict[str, deque[ToolDoes]] = defaultdict(deque)

    def model(self, name: str, *answers: Answer, then: Answer | None = None) -> None:
        """The agent's next answers, in order, and what it answers ever after."""
        self._answers[name].extend(answers)
        if then is not None:
            self._always[name] = then

    def tool(self, name: str, *does: ToolDoes) -> None:
        """What a tool does call by call; the last for ever after. A tool that is not scripted returns its name."""
        self._tools[name].extend(does)

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """The doubles, under the real names."""
        steps = [self._call_model, self._run_tool, self._compact_history, self._recall, self._remember]
        people = [self._ask_person, self._check_edit, self._keep_record, self._close_run]
        return [*steps, *people, self._find_undoable, self._undo_effect, self._withhold_result, *self.batches.activities]

    @activity.defn(name=names.CALL_MODEL)
    async def _call_model(self, request: ModelCallRequest) -> ModelTurn:
        self.asked.append(request)
        answers = self._answers[request.agent.name]
        answer = answers.popleft() if answers else self._always.get(request.agent.name)
        if answer is None:
            raise StepError(f"The script of {request.agent.name} ends before step {request.step}.", failure_class=FailureClass.CALLER)
        return await _awaited(answer(request))

    @activity.defn(name=names.RUN_TOOL)
    async def _run_tool(self, request: ToolRunRequest) -> ToolOutcome:
        self.ran.append(request)
        does = self._tools[request.name]
        if not does:
            result = request.name
        else:
            result = await _awaited((does.popleft() if len(does) > 1 else does[0])(request))
        if isinstance(result, ToolOutcome):
            return result
        return ToolOutcome(ok=True, result_hash=hashlib.sha256(result.encode()).hexdigest()[:16], result_bytes=len(result))

    @activity.defn(name=names.COMPACT)
    async def _compact_history(self, request: ModelCallRequest) -> CompactOutcome:
        self.compacted.append(request)
        return self.compacts(request)

    @activity.defn(name=names.RECALL)
    async def _recall(self, request: MemoryRequest) -> Recalled:
        self.recalled.append(request)
        return Recalled(count=1)

    @activity.defn(name=names.REMEMBER)
    async def _remember(self, request: MemoryRequest) -> None:
        self.remembered.append(request)

    @activity.defn(name=names.ASK_PERSON)
    async def _ask_person(self, request: AskRequest) -> Asked:
        self.questions.append(request)
        if self.groups is None:
            raise StepError("nobody knows the groups now", failure_class=FailureClass.TRANSIENT)
        named = request.policy.escalate_to if request.escalated else request.policy.by
        return Asked(allowed=tuple(person for name in named for person in self.groups.get(name.removeprefix("@"), (name,))))

    @activity.defn(name=names.CHECK_EDIT)
    async def _check_edit(self, request: EditRequest) -> Edited:
        self.edits.append(request)
        return Edited(version=2, preview=json.dumps(request.value), text=str(request.value), problem=self.wrong_edits.get(request.kind, ""))

    @activity.defn(name=names.KEEP_RECORD)
    async def _keep_record(self, request: RecordRequest) -> None:
        self.notes.extend(request.notes)
        self.filed.extend(request.filed)

    @activity.defn(name=names.CLOSE_RUN)
    async def _close_run(self, request: CloseRequest) -> None:
        self.closed.append(request)

    @activity.defn(name=names.FIND_UNDOABLE)
    async def _find_undoable(self, _request: CloseRequest) -> list[Undoable]:
        return self.undoable

    @activity.defn(name=names.UNDO_EFFECT)
    async def _undo_effect(self, request: UndoRequest) -> ToolOutcome:
        self.undone.append(request)
        does = self._tools[f"undo {request.effect.tool}"]
        if does:
            await _awaited((does.popleft() if len(does) > 1 else does[0])(request))  # type: ignore[arg-type]
        return ToolOutcome(ok=True, result_hash="undone", result_bytes=0)

    @activity.defn(name=names.WITHHOLD_RESULT)
    async def _withhold_result(self, request: WithholdRequest) -> None:
        self.withheld.append(request)

    @staticmethod
    def _compacts(request: ModelCallRequest) -> CompactOutcome:
        return CompactOutcome(usage=Usage(input_tokens=500, output_tokens=50), cost_usd=Decimal("0.005"), through_step=request.step - 1)


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def becomes(reached: Callable[[], bool]) -> None:
    """Wait until it is so, for seconds at most."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if reached():
                return
            await asyncio.sleep(0.02)


class HangsUntilCancelled:
    """A tool or model that never ends by itself, heartbeats, and notes that it began and that its cancellation arrived."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, _request: Any) -> Any:
        self.began.set()
        try:
            while True:
                activity.heartbeat()
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Engine:
    """A worker on a queue of its own; runs that it starts skip time while nothing is in flight."""

    def __init__(self, client: Client, task_queue: str, script: Script) -> None:
        self.skipper = TimeSkipper(client)
        self.client = client
        self.task_queue = task_queue
        self.script = script

    async def start(
        self, pinned: PinnedAgent, *, skip_time: bool = True, start_signal: str | None = None, start_signal_args: Any = (), **fields: Any
    ) -> Handle:
        """Start a run as the client does."""
        given = RunInput(run_id=fields.pop("run_id", f"run-{uuid.uuid4().hex[:12]}"), agent=pinned, **fields)
        return await (self.skipper.client if skip_time else self.client).start_workflow(
            AgentRun.run,
            given,
            id=given.run_id,
            task_queue=self.task_queue,
            search_attributes=run_view.search_attributes(given),
            static_summary=run_view.static_summary(given, "Where is my order?"),
            static_details=run_view.static_details(given),
            start_signal=start_signal,
            start_signal_args=start_signal_args,
        )

    async def run(self, pinned: PinnedAgent, **fields: Any) -> RunOutcome:
        """Start a run and await its outcome."""
        return await self.result(await self.start(pinned, **fields))

    async def result(self, handle: Handle) -> RunOutcome:
        """The outcome, or the failure, within seconds."""
        async with asyncio.timeout(WAIT_S):
            return await handle.result()

    async def until(self, handle: Any, reached: Callable[[RunView], bool]) -> RunView:
        """Ask the run how it stands until it stands so."""
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    view: RunView = await handle.query(AgentRun.view)
                except RPCError as error:  # a sub-run that its caller has yet to start
                    if error.status is not RPCStatusCode.NOT_FOUND:
                        raise
                else:
                    if reached(view):
                        return view
                await asyncio.sleep(0.02)

    async def parked(self, handle: Any) -> RunView:
        """The run once it is parked."""
        return await self.until(handle, lambda view: view.parked is not None)

    async def events(self, handle: Any) -> list[HistoryEvent]:
        """The history of the run's current execution."""
        return [event async for event in handle.fetch_history_events()]


async def current_details(handle: Any) -> str:
    """What the Temporal Web UI shows of a run as its current details, in Markdown."""
    metadata: WorkflowMetadata = await handle.query("__temporal_workflow_metadata")
    return metadata.current_details


def serving(client: Client, task_queue: str, script: Script, **options: Any) -> Worker:
    """A worker with the real workflow, the real edge and scripted activities; cancellations reach activities quickly."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[AgentRun],
        activities=script.activities,
        interceptors=[EdgeInterceptor()],
        workflow_runner=workflow_runner(),
        max_heartbeat_throttle_interval=timedelta(milliseconds=50),
        **options,
    )
