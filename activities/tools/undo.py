"""The activities that take back what a run's tools did."""

from __future__ import annotations

from temporalio import activity

from activities.tools.functions import FunctionRunner
from activities.tools.registry import Toolbox
from activities.tools.undo_call import UndoCall, UndoLedger
from state import undoing
from state.pool import Database
from workflows.contracts import names
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.people import CloseRequest, Undoable, UndoRequest
from workflows.contracts.steps import ToolOutcome


class UndoActivities:
    """`find_undoable` and `undo_effect`."""

    def __init__(self, database: Database, toolbox: Toolbox) -> None:
        self._database = database
        self._toolbox = toolbox
        self._functions = FunctionRunner(toolbox)

    @activity.defn(name=names.FIND_UNDOABLE)
    async def find_undoable(self, request: CloseRequest) -> list[Undoable]:
        """The run's effects that were done and can be undone, the last first."""
        return await undoing.find(self._database, run_id=request.run_id, tenant=request.tenant)

    @activity.defn(name=names.UNDO_EFFECT)
    async def undo_effect(self, request: UndoRequest) -> ToolOutcome:
        """Undo one effect, under the ledger as an effect of its own."""
        tool = self._toolbox.function(request.effect.tool)
        async with self._functions.ready(tool) as ready:
            if not ready.can_undo:
                raise StepError(
                    f"Tool {request.effect.tool} of this worker has no undo: deploy one that has it.",
                    failure_class=FailureClass.TRANSIENT,
                    code="no_undo_here",
                )
            return await UndoCall(UndoLedger(self._database, request, tool.spec), ready, request).run()
