"""The activities that run one tool call under the effect ledger, and take its result away from the model."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Final, Protocol

from temporalio import activity

from activities.tools.effect_call import EffectCall
from activities.tools.functions import FunctionRunner
from activities.tools.guards import guards
from activities.tools.http import HttpRunner
from activities.tools.ledger import Ledger
from activities.tools.ready import Ready
from activities.tools.registry import Toolbox
from state import held_results
from state.pool import Database
from workflows.contracts import names
from workflows.contracts.agents import AgentDefinition, Effect, ToolKind, ToolSpec
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.people import WithholdRequest
from workflows.contracts.steps import ToolOutcome, ToolRunRequest

STRICTNESS: Final = (Effect.PURE, Effect.IDEMPOTENT, Effect.ONCE)


class Definitions(Protocol):
    """Where pinned definitions come from."""

    async def by_hash(self, definition_hash: str) -> AgentDefinition:
        """A definition as it was pinned."""
        ...


class ToolActivities:
    """`run_tool` and `withhold_result`."""

    def __init__(self, database: Database, definitions: Definitions, toolbox: Toolbox, http: HttpRunner) -> None:
        self._database = database
        self._definitions = definitions
        self._toolbox = toolbox
        self._functions = FunctionRunner(toolbox)
        self._http = http

    @activity.defn(name=names.RUN_TOOL)
    async def run_tool(self, request: ToolRunRequest) -> ToolOutcome:
        """Run one tool call under the effect ledger."""
        pinned = await self._pinned(request)
        async with self._made_ready(pinned) as (spec, ready), guards(self._toolbox, spec.name) as watching:
            ledger = Ledger(self._database, request, spec, hold=watching.look_after)
            return await EffectCall(ledger, ready, watching, request, spec).run()

    @activity.defn(name=names.WITHHOLD_RESULT)
    async def withhold_result(self, request: WithholdRequest) -> None:
        """Put a person's words in place of a result that the model has yet to see."""
        text = f"A person withheld this result. {request.reason}".rstrip()
        await held_results.withhold(self._database, request.run_id, request.step, by=request.by, reason=request.reason, text=text)

    async def _pinned(self, request: ToolRunRequest) -> ToolSpec:
        definition = await self._definitions.by_hash(request.agent.definition_hash)
        found = next((spec for spec in definition.tools if spec.name == request.name), None)
        if found is None:
            raise StepError(f"The pinned definition of {definition.name} has no tool {request.name!r}.", failure_class=FailureClass.CODE)
        return found

    @contextlib.asynccontextmanager
    async def _made_ready(self, pinned: ToolSpec) -> AsyncIterator[tuple[ToolSpec, Ready]]:
        """The tool with all that it needs: a worker that lacks something must not enter a start into the ledger."""
        if pinned.kind is ToolKind.HTTP:
            yield pinned, self._http.ready(pinned)
            return
        tool = self._toolbox.function(pinned.name)
        # The code may have become stricter since the run began; its key stays, or an attempt before the deploy would not be found.
        effect = max(pinned.effect, tool.spec.effect, key=STRICTNESS.index)
        async with self._functions.ready(tool) as ready:
            yield pinned.model_copy(update={"effect": effect, "undo": ready.can_undo}), ready
