"""An environment for a test of agents: their folder, a scripted model, and everything else real, in the test's own event loop."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from temporalio.client import Client
from temporalio.testing import TimeSkipper

import worker
from activities.inference import pricing
from activities.inference.providers.protocol import Provider
from activities.inference.routing import Candidate, Router
from activities.inference.settings import defaults
from client.backend import Backend
from client.orchestrator import Orchestrator
from client.run import Run
from client.settings import Settings
from client.temporal import connect_temporal
from devstack.stack import RunningStack
from state.definitions import Definitions
from state.pool import Database
from workflows.contracts.provider_settings import ModelSettings

WINDOW_TOKENS = 128_000
PRICE = ModelSettings(context_window_tokens=WINDOW_TOKENS, input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(4))
"""What a scripted token costs, so that limits on money can be tested; no real money is meant."""


class OneModel(Router):
    """Every tier and every model id means the test's own model."""

    def __init__(self, provider: str, price: ModelSettings = PRICE) -> None:
        super().__init__(defaults({}))
        self._provider = provider
        self._price = price

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        """The one there is, under the name the agent asks for."""
        worst = pricing.worst(self._provider, model, self._price)
        return (Candidate(self._provider, model, self._provider, self._price, worst, "the test's model"),)


@dataclass(frozen=True)
class AgentEnvironment:
    """What a test works with."""

    holdfast: Orchestrator
    """The client, as production code has it."""
    client: Client
    model: Provider
    task_queue: str
    skipper: TimeSkipper | None = field(default=None, repr=False)

    async def start(self, agent: str, input: Any, **options: Any) -> Run:  # noqa: A002 - the client's word
        """Start a run; the same as `holdfast.start`."""
        return await self.holdfast.start(agent, input, **options)

    async def run(self, agent: str, input: Any, **options: Any) -> Any:  # noqa: A002 - the client's word
        """Start a run and give its answer; the same as `holdfast.run`."""
        return await self.holdfast.run(agent, input, **options)

    async def fast_forward(self, run: Run, seconds: float) -> None:
        """Let the run's clock jump ahead: its timers fire as if the time had passed. Needs `time_skipping=True`."""
        if self.skipper is None:
            raise RuntimeError("this environment does not skip time: open it with time_skipping=True")
        await self.skipper.fast_forward(self.client.get_workflow_handle(run.id), seconds)


@contextlib.asynccontextmanager
async def open_environment(
    stack: RunningStack,
    *,
    agents: Sequence[Path],
    model: Provider,
    price: ModelSettings = PRICE,
    time_skipping: bool = False,
) -> AsyncIterator[AgentEnvironment]:
    """Run a worker for the agents in this event loop, on a task queue of its own, and a client for it.

    Args:
        stack: the development stack.
        agents: folders with agent definitions and tools.
        model: answers every model call, whatever tier or model the agents name.
        price: what its tokens cost.
        time_skipping: runs have clocks of their own that jump over waits.
    """
    queue = f"test-{uuid.uuid4().hex[:12]}"
    settings = Settings(
        temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=stack.database_url, task_queue=queue
    )
    client = await connect_temporal(settings)
    skipper = TimeSkipper(client) if time_skipping else None
    async with Database.open(settings.database_url, max_size=5) as database:
        parts = worker.Parts(database=database, inference=(OneModel(model.name, price), {model.name: model}))
        async with worker.serving(client, queue, parts, folders=agents):
            chosen = skipper.client if skipper else client
            yield AgentEnvironment(
                holdfast=Orchestrator(Backend(settings=settings, temporal=chosen, database=database, definitions=Definitions(database))),
                client=chosen,
                model=model,
                task_queue=queue,
                skipper=skipper,
            )
