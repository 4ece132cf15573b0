"""What a model call costs a worker's processor through the whole inference layer, beside the same call by the SDK alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path

from openai import AsyncOpenAI

from activities.inference import asking
from activities.inference.asking import Answered, Kept
from activities.inference.breakers import Breakers
from activities.inference.gateway import Gateway, Shared
from activities.inference.limiter import Limiter
from activities.inference.opening import ConfiguredInference
from state import runs, transcripts
from state.pool import Database
from state.runs import NewRun
from testkit.processes import provider_process
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.inference import BreakerSettings, BudgetEntry, BudgetScope, InferenceSettings
from workflows.contracts.messages import Message, Role
from workflows.contracts.provider_settings import KeyEntry, ModelSettings, ProviderEntry, Rates
from workflows.contracts.steps import ModelCallRequest

CALLS = 400
AT_ONCE = 8
WARM = 60
KEY = "BENCH_PROVIDER_KEY"
KEY_VALUE = "bench-key-of-no-worth"
WIDE = Rates(requests_per_minute=1e6, tokens_per_minute=1e9, concurrency=500)
ASKED = "look up 0 things"
BUDGET = BudgetEntry(scope=BudgetScope.TENANT, period="day", cost_usd=Decimal(1_000_000))
AGENT = AgentDefinition(name="bench", instructions="Answer.", model="smart")


async def cpu_ms_per_call(dsn: str, folder: Path) -> tuple[float, float]:
    """CPU of this process a call, in milliseconds: through the layer with limits, a budget and breakers, and by the bare SDK."""
    async with contextlib.AsyncExitStack() as exits:
        urls = await exits.enter_async_context(provider_process("benchmarks.simulation:answer", dict(os.environ), folder))
        database = await exits.enter_async_context(Database.open(dsn))
        inference = await exits.enter_async_context(contextlib.aclosing(ConfiguredInference({KEY: KEY_VALUE})))
        breakers = await exits.enter_async_context(Breakers(database, BreakerSettings(), worker="bench-layer"))
        limiter = await exits.enter_async_context(Limiter(database, worker="bench-layer").open())
        gateway = Gateway(database, *inference.take(_settings(urls.openai)), Shared(limiter=limiter, breakers=breakers))
        bare = await exits.enter_async_context(AsyncOpenAI(base_url=urls.openai, api_key=KEY_VALUE, max_retries=0))
        founded = iter([await _run(database) for _ in range(CALLS + WARM)])

        async def through_the_layer() -> None:
            request = ModelCallRequest(run_id=next(founded), step=1, agent=AGENT.pin(), tenant="default")
            await gateway.pay(request, asking.whole(AGENT, ()), 1, _keep)

        async def by_the_sdk() -> None:
            await bare.chat.completions.create(
                model="m", messages=[{"role": "system", "content": "Answer."}, {"role": "user", "content": ASKED}]
            )

        return await _cpu_ms(through_the_layer), await _cpu_ms(by_the_sdk)


async def _cpu_ms(call: Callable[[], Awaitable[None]]) -> float:
    async def several(count: int) -> None:
        for _ in range(count // AT_ONCE):
            await asyncio.gather(*(call() for _ in range(AT_ONCE)))

    await several(WARM)
    began = time.process_time()
    await several(CALLS)
    return (time.process_time() - began) / (CALLS // AT_ONCE * AT_ONCE) * 1e3


async def _run(database: Database) -> str:
    run_id = f"layer-{uuid.uuid4().hex[:12]}"
    new = NewRun(run_id, "default", "bench", "hash", None, None, "body", Decimal(5))
    await runs.create(database, new, Message(role=Role.USER, text=ASKED))
    return run_id


def _keep(answered: Answered) -> Kept:
    text = answered.response.text
    return Kept({"text": text}, [transcripts.row(1, Message(role=Role.ASSISTANT, text=text))])


def _settings(base_url: str) -> InferenceSettings:
    price = ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(1), context_window_tokens=10_000, limits=WIDE)
    entry = ProviderEntry(dialect="openai", base_url=base_url, keys=(KeyEntry(name="main", env=KEY),), limits=WIDE)
    return InferenceSettings(providers={"sim": entry}, tiers={"smart": ["sim:m"]}, models={"sim:m": price}, budgets={"day": BUDGET})
