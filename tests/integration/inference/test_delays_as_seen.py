"""What people see of a run that waits for a limit: in `show`, and in Temporal's own description of it; while its history stays as it is."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from temporalio.api.enums.v1 import EventType
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import Client

from client.orchestrator import Orchestrator
from client.run import Run
from client.settings import Settings
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import simulated_provider
from devstack.stack import RunningStack
from state import budgets
from state.migrate import migrate
from state.pool import Database
from worker import Parts, serving

WITHIN_S = 60.0
MODELS = """
providers:
  own: {dialect: openai, base_url: "${env:OWN_MODELS_URL}", api_key_env: OWN_MODELS_KEY, limits: {requests_per_minute: 20}}
models: {"own:m": {input_usd_per_million: 1, output_usd_per_million: 2, context_window_tokens: 10000}}
tiers: {smart: "own:m"}
"""
DELAYED = re.compile(r"delayed, about (\d+) s: provider:own requests/min")


@dataclass
class House:
    """A worker whose provider admits few calls, and what reaches it."""

    holdfast: Orchestrator
    client: Client
    database: Database

    async def pending(self, run: Run) -> PendingActivityInfo | None:
        """The run's pending activity as Temporal describes it, once it has failed."""
        described = await self.client.get_workflow_handle(run.id).describe()
        return next((each for each in described.raw_description.pending_activities if each.HasField("last_failure")), None)

    async def events(self, run: Run) -> list[str]:
        """The kinds of the events in the run's history."""
        history = await self.client.get_workflow_handle(run.id).fetch_history()
        return [EventType.Name(event.event_type) for event in history.events]


@contextlib.asynccontextmanager
async def opened(stack: RunningStack, client: Client, url: str, folder: Path) -> AsyncIterator[House]:
    def policy(_request: SimulatedRequest) -> SimulatedAnswer:
        return SimulatedAnswer(text="Done.")

    (folder / "models.yaml").write_text(MODELS, encoding="utf-8")
    (folder / "desk.yaml").write_text("{name: desk, model: smart, instructions: Help.}", encoding="utf-8")
    await migrate(url)
    queue = f"delays-{uuid.uuid4().hex[:8]}"
    found = Settings(temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=url, task_queue=queue)
    async with simulated_provider(policy) as provider, Database.open(url, max_size=20) as database:
        environ = {"OWN_MODELS_URL": provider.openai_url, "OWN_MODELS_KEY": "key-of-no-worth"}
        async with (
            serving(client, queue, Parts(database=database, environ=environ), folders=[folder]),
            Orchestrator.connect(found) as holdfast,
        ):
            yield House(holdfast, client, database)


async def test_a_run_that_waits_for_a_limit_says_so_everywhere_and_nothing_in_its_history_does(
    stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path
) -> None:
    async with opened(stack, client, new_database_url, tmp_path) as house:
        runs = [await house.holdfast.start("desk", f"question {number}") for number in range(5)]
        async with asyncio.timeout(WITHIN_S):
            while True:
                seen = [(run, found) for run in runs if (found := await house.pending(run)) is not None]
                if seen:
                    break
        run, pending = seen[-1]
        message = pending.last_failure.message
        told = DELAYED.fullmatch(message)
        assert told is not None, message
        assert int(told[1]) > 2, "a shorter wait is spent in the worker"
        assert pending.last_failure.application_failure_info.type == "throttled"
        assert pending.HasField("scheduled_time"), "Temporal tells when it is tried next"
        report = await run.show()
        assert report.delayed is not None
        assert re.fullmatch(r"step 1 is delayed, about \d+ s: provider:own requests/min", report.delayed)

        async with asyncio.timeout(WITHIN_S):
            assert [await each.result() for each in runs] == ["Done."] * 5
        waited = await house.events(run)
        assert waited == await house.events(runs[0]), "the wait has added nothing"
        assert not any("TIMER" in kind for kind in waited)


async def test_a_run_that_waits_for_a_budget_is_shown_as_delayed(
    stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path
) -> None:
    async with opened(stack, client, new_database_url, tmp_path) as house:
        run = await house.holdfast.start("desk", "question")
        await run.result(timeout_s=WITHIN_S)
        await budgets.wait(house.database, run.id, 7, "day:acme", 90.0)
        assert re.fullmatch(r"step 7 is delayed, about (90|89) s: budget day:acme", (await run.show()).delayed or "")
