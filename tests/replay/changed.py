"""Variants of the workflow: changed without care, which a replay must find out, and one that is changed as it should be."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, Final

from temporalio import workflow

from workflows.agent_run import AgentRun
from workflows.contracts import names
from workflows.contracts.runs import RunInput, RunOutcome
from workflows.contracts.steps import ModelTurn

_A_MINUTE: Final = timedelta(minutes=1)


@workflow.defn(name=names.AGENT_RUN)
class Hasty(AgentRun):
    """Sleeps a moment before it begins."""

    @workflow.run
    async def run(self, given: RunInput) -> RunOutcome:
        """As the original, but later."""
        await workflow.sleep(1)
        return await super().run(given)


@workflow.defn(name=names.AGENT_RUN)
class Renamed(AgentRun):
    """Calls the model by an activity of another name."""

    @workflow.run
    async def run(self, given: RunInput) -> RunOutcome:
        """Ask once."""
        answered: Any = await workflow.execute_activity("ask_model", self._course.model_request(1), schedule_to_close_timeout=_A_MINUTE)
        return RunOutcome.model_validate(answered)


@workflow.defn(name=names.AGENT_RUN)
class Clocked(AgentRun):
    """Reads the machine's clock, which a replay cannot give again; all it decides is the same."""

    @workflow.run
    async def run(self, given: RunInput) -> RunOutcome:
        """As the original."""
        time.time()
        return await super().run(given)


@workflow.defn(name=names.AGENT_RUN)
class Grown(AgentRun):
    """Does something new at its beginning and before its end, each behind a patch: runs of before it go on."""

    @workflow.run
    async def run(self, given: RunInput) -> RunOutcome:
        """As the original, but later, for runs that begin with it."""
        if workflow.patched("begins-later"):
            await workflow.sleep(0.1)
        return await super().run(given)

    async def _to_the_answer(self) -> ModelTurn:
        turn = await super()._to_the_answer()
        if workflow.patched("ends-later"):
            await workflow.sleep(0.1)
        return turn
