"""A worker in this process, and a simulated provider that takes batches in: what tests of batches at work are made of."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from temporalio.client import Client

from activities.inference import pricing
from activities.inference.providers.catalog import Dialect
from client.orchestrator import Orchestrator
from client.run import Run
from client.settings import Settings
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import SimulatedProvider, simulated_provider
from devstack.stack import RunningStack
from state.migrate import migrate
from state.pool import Database
from worker import Parts, serving
from workflows.contracts.messages import Role
from workflows.contracts.provider_settings import ModelSettings
from workflows.contracts.runs import RunView

WITHIN_S = 60.0
PRICE = ModelSettings(input_usd_per_million=Decimal(10), output_usd_per_million=Decimal(40), context_window_tokens=100_000)
MODELS = """
providers: {{own: {{dialect: {dialect}, base_url: "{url}", api_key_env: BATCH_TEST_KEY, batch_api: {batch_api}}}}}
models: {{"own:m": {{input_usd_per_million: 10, output_usd_per_million: 40, context_window_tokens: 100000}}}}
tiers: {{smart: "own:m"}}
batch: {{gather_s: {gather_s}, submit_timeout_s: 1, first_look_s: 0.3, longest_look_s: 1.2}}
"""
AGENT = "{name: desk, model: smart, instructions: Help., tools: [find_order], priority: batch, limits: {cost_usd: 5}}"
TOOLS = '''
from holdfast import tool

@tool
async def find_order(order_id: str) -> str:
    """Find an order."""
    return f"{order_id} is on its way"
'''


def policy(request: SimulatedRequest) -> SimulatedAnswer:
    """Looks an order up when asked to, then answers."""
    asked = next(message.text for message in request.messages if message.role is Role.USER)
    if "look" in asked and not any(message.role is Role.TOOL for message in request.messages):
        return SimulatedAnswer(calls=(("find_order", {"order_id": "W1"}),))
    return SimulatedAnswer(text=f"Done: {asked}")


@dataclass
class House:
    """A worker with a database and a queue of its own, its provider, and a client."""

    holdfast: Orchestrator
    provider: SimulatedProvider
    database: Database
    environ: dict[str, str]

    async def answer(self, run: Run) -> str:
        """The run's answer, within the test's time."""
        return str(await run.result(timeout_s=WITHIN_S))

    async def until(self, run: Run, words: str) -> RunView:
        """The run, once what it does holds these words."""
        async with asyncio.timeout(WITHIN_S):
            while words not in (view := await run.view()).doing:  # noqa: ASYNC110 - a workflow tells nobody
                await asyncio.sleep(0.05)
        return view

    async def calls(self, run: Run) -> list[dict[str, Any]]:
        """The run's rows in the ledger."""
        rows = await self.database.fetch("select * from model_calls where run_id = $1 order by step, attempt", run.id)
        return [dict(row) for row in rows]

    def billed_usd(self, *, in_batches: bool) -> Decimal:
        """What the provider bills by its journal: half for what came in batches."""
        usages = [each.usage for each in self.provider.journal() if each.billed and each.batch is in_batches and each.usage]
        full = sum((pricing.charge("own", "m", usage, PRICE).cost_usd for usage in usages), Decimal(0))
        return full / 2 if in_batches else full


@contextlib.asynccontextmanager
async def opened(
    stack: RunningStack, client: Client, url: str, folder: Path, dialect: Dialect, *, gather_s: float = 0.3, batch_api: str = "true"
) -> AsyncIterator[House]:
    """All of it for the length of the block."""
    await migrate(url)
    queue = f"batches-{uuid.uuid4().hex[:8]}"
    found = Settings(temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=url, task_queue=queue)
    reach = {"DATABASE_URL": url, "TEMPORAL_ADDRESS": stack.temporal_address, "TEMPORAL_NAMESPACE": stack.namespace}
    environ = {"BATCH_TEST_KEY": "key-of-no-worth"}
    async with simulated_provider(policy) as provider, Database.open(url, max_size=20) as database:
        address = provider.openai_url if dialect is Dialect.OPENAI else provider.anthropic_url
        models = MODELS.format(dialect=dialect.value, url=address, gather_s=gather_s, batch_api=batch_api)
        for name, text in (("models.yaml", models), ("desk.yaml", AGENT), ("tools.py", TOOLS)):
            (folder / name).write_text(text, encoding="utf-8")
        async with (
            serving(client, queue, Parts(database=database, environ=environ), folders=[folder]),
            Orchestrator.connect(found) as holdfast,
        ):
            yield House(holdfast, provider, database, os.environ | reach)
