"""A desk at which one tool call after another is made, by the real activity on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from temporalio.testing import ActivityEnvironment

from activities.tools.dependencies import Dependencies
from activities.tools.http import HttpRunner
from activities.tools.registry import Toolbox
from activities.tools.run_tool import ToolActivities
from activities.tools.undo import UndoActivities
from state import effects, runs, transcripts
from state.definitions import Definitions
from state.effects import Effect as Row
from state.pool import Database
from state.runs import NewRun
from workflows.contracts.agents import AgentDefinition, PinnedAgent, ToolSpec
from workflows.contracts.hooks import hooks_of
from workflows.contracts.messages import Message, Role, ToolCall
from workflows.contracts.people import CloseRequest, Undoable, UndoRequest
from workflows.contracts.steps import ToolOutcome, ToolRunRequest
from workflows.contracts.tools import Provider, Tool


@dataclasses.dataclass
class Worker:
    """One worker process's tools."""

    activities: ToolActivities
    toolbox: Toolbox
    undo: UndoActivities


class Desk:
    """Makes tool calls of a tenant that no other test sees."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.tenant = f"tenant-{uuid.uuid4().hex[:8]}"
        self.http: dict[str, str] = {}
        self._closing: list[Callable[[], Any]] = []

    def worker(
        self,
        *tools: Tool[..., Any],
        providers: Iterable[Provider] = (),
        environ: Mapping[str, str] | None = None,
        hooks: Iterable[Callable[..., Any]] = (),
    ) -> Worker:
        dependencies = Dependencies(providers)
        found = [hook for function in hooks for hook in hooks_of(function)]
        toolbox = Toolbox({tool.spec.name: tool for tool in tools}, dependencies, found)
        http = HttpRunner(environ or {})
        self._closing += [http.aclose, lambda: dependencies.__aexit__(None, None, None)]
        tool_activities = ToolActivities(self.database, Definitions(self.database), toolbox, http)
        return Worker(tool_activities, toolbox, UndoActivities(self.database, toolbox))

    async def close(self) -> None:
        for close in self._closing:
            await close()

    async def asked(self, spec: ToolSpec, arguments: Any, *, run_id: str | None = None, step: int = 2) -> ToolRunRequest:
        """A request as the workflow makes it: the model has asked for the call at the step before."""
        definition = AgentDefinition(name="tester", instructions="Test.", tools=(spec,))
        await Definitions(self.database).register([definition], by="test")
        run_id = run_id or f"run-{uuid.uuid4().hex[:10]}"
        pin = definition.pin()
        await self._run(run_id, pin)
        raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
        call = ToolCall(call_id=f"call_{step}", name=spec.name, arguments=raw)
        async with self.database.transaction() as connection:
            await transcripts.append(connection, run_id, step - 1, pin.name, Message(role=Role.ASSISTANT, tool_calls=(call,)))
        return ToolRunRequest(
            run_id=run_id,
            step=step,
            model_step=step - 1,
            call_id=call.call_id,
            name=spec.name,
            agent=pin,
            tenant=self.tenant,
            user="u1",
        )

    async def _run(self, run_id: str, pin: PinnedAgent) -> None:
        new = NewRun(run_id, self.tenant, pin.name, pin.definition_hash, "u1", None, "body", pin.limits.cost_usd)
        await runs.create(self.database, new, Message(role=Role.USER, text="Hello."))

    async def attempt(
        self, worker: Worker, request: ToolRunRequest, *, attempt: int = 1, activity: str = "1", again: bool = False
    ) -> ToolOutcome:
        """One attempt of the activity."""
        environment = Attempt(attempt, activity)
        return await environment.start(worker, request.model_copy(update={"rulings": int(activity) if again else 0}))

    async def undoable(self, worker: Worker, request: ToolRunRequest) -> list[Undoable]:
        """What can be undone of the run that the request is of."""
        close = CloseRequest(run_id=request.run_id, tenant=self.tenant, agent=request.agent, status="cancelled")
        return await ActivityEnvironment().run(worker.undo.find_undoable, close)

    async def take_back(
        self, worker: Worker, request: ToolRunRequest, effect: Undoable, *, attempt: int = 1, rulings: int = 0
    ) -> ToolOutcome:
        """One attempt to undo an effect, by the run that the request is of."""
        return await Attempt(attempt).undo(worker, self.to_undo(request, effect, rulings))

    def to_undo(self, request: ToolRunRequest, effect: Undoable, rulings: int = 0) -> UndoRequest:
        """The request for it."""
        return UndoRequest(run_id=request.run_id, agent=request.agent, tenant=self.tenant, user="u1", effect=effect, rulings=rulings)

    async def edit(self, request: ToolRunRequest, arguments: Any, *, version: int = 2) -> None:
        """Arguments that a person gave the call, as `check_edit` keeps them."""
        await self.database.execute(
            "insert into edited_arguments (run_id, step, call_id, version, arguments, by, note) values ($1, $2, $3, $4, $5, 'ann', $4)",
            *(request.run_id, request.step, request.call_id, version, json.dumps(arguments)),
        )

    async def skip(self, request: ToolRunRequest, result: str) -> None:
        """Write the result that a person gave, as the next model call does."""
        message = Message(role=Role.TOOL, call_id=request.call_id, text=result)
        async with self.database.transaction() as connection:
            await transcripts.append(connection, request.run_id, request.step, request.agent.name, message)

    async def told(self, request: ToolRunRequest) -> Message | None:
        """What the model is told of the call."""
        return await transcripts.message_at(self.database, request.run_id, request.step)

    async def row(self, tool: Tool[..., Any] | ToolSpec, key: str | None = None, request: ToolRunRequest | None = None) -> Row | None:
        """The ledger's row."""
        name = tool.name if isinstance(tool, ToolSpec) else tool.spec.name
        wanted = key or (f"{request.run_id}:{request.step}" if request else "")
        rows = await effects._select(self.database, "where tenant = $1 and tool = $2 and key = $3", self.tenant, name, wanted)
        return rows[0] if rows else None

    async def state(self, tool: Tool[..., Any] | ToolSpec, key: str | None = None, request: ToolRunRequest | None = None) -> str | None:
        row = await self.row(tool, key, request)
        return row.state if row else None

    async def end_leases(self) -> None:
        """As if the time had passed that a dead holder's lease lasts."""
        await self.database.execute("update effects set lease_until = now() - interval '1 minute' where tenant = $1", self.tenant)


class Attempt:
    """One attempt of an activity, which can be cancelled, or die as with its worker."""

    def __init__(self, number: int = 1, activity: str = "1") -> None:
        self._environment = ActivityEnvironment()
        self._environment.info = dataclasses.replace(self._environment.info, attempt=number, activity_id=activity)
        self.task: asyncio.Task[ToolOutcome] | None = None

    async def start(self, worker: Worker, request: ToolRunRequest) -> ToolOutcome:
        return await self._environment.run(worker.activities.run_tool, request)

    async def undo(self, worker: Worker, request: UndoRequest) -> ToolOutcome:
        return await self._environment.run(worker.undo.undo_effect, request)

    def begin_undo(self, worker: Worker, request: UndoRequest) -> asyncio.Task[ToolOutcome]:
        self.task = asyncio.create_task(self.undo(worker, request))
        return self.task

    def begin(self, worker: Worker, request: ToolRunRequest) -> asyncio.Task[ToolOutcome]:
        self.task = asyncio.create_task(self.start(worker, request))
        return self.task

    def cancel(self) -> None:
        self._environment.cancel()
