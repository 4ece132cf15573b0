"""Budgets where calls meet them: at the gateway, in a run that waits, and in what people are shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client

from activities.inference import asking
from activities.inference.asking import Answered, Asked, Kept, Refused
from activities.inference.gateway import Gateway
from activities.inference.providers.scripted import ScriptedModel
from activities.inference.routing import Router
from client import budgets as shown_budgets
from client.orchestrator import Orchestrator
from client.run import Run
from client.settings import Settings
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import simulated_provider
from devstack.stack import RunningStack
from state import budgets, transcripts
from state.migrate import migrate
from state.pool import Database
from tests.integration.state.ledger import new_run
from worker import Parts, serving
from workflows.contracts.agents import AgentDefinition, Limits
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import BudgetEntry, InferenceSettings
from workflows.contracts.messages import Message, ModelResponse, Role, Usage
from workflows.contracts.provider_settings import ModelSettings, ProviderEntry
from workflows.contracts.runs import RunStatus
from workflows.contracts.steps import ModelCallRequest

WITHIN_S = 40.0
PRICE = ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(1_000), context_window_tokens=10_000)
ANSWER = ModelResponse(model="m-2026", text="the answer", finish="stop", usage=Usage(input_tokens=1_000, output_tokens=10))


def settings(**budget: Any) -> InferenceSettings:
    """One model, and one budget for each tenant and day."""
    entry = BudgetEntry.model_validate({"scope": "tenant", "period": "day"} | budget)
    return InferenceSettings(
        providers={"own": ProviderEntry(dialect="openai")}, models={"own:m": PRICE}, tiers={"smart": ("own:m",)}, budgets={"day": entry}
    )


@dataclass
class Desk:
    """A gateway to a scripted model, and runs of one agent."""

    database: Database
    gateway: Gateway
    asked: Asked

    def take(self, found: InferenceSettings) -> None:
        self.gateway.configure(Router(found), {"own": ScriptedModel([ANSWER] * 8, name="own")})

    async def pay(self, run_id: str) -> Any:
        pinned = AgentDefinition(name="support", instructions="Help.", limits=Limits(cost_usd=Decimal(5))).pin()
        step = ModelCallRequest(run_id=run_id, step=1, agent=pinned, tenant="default")
        return await self.gateway.pay(step, self.asked, 1, keep)


def keep(answered: Answered) -> Kept:
    return Kept({"text": answered.response.text}, [transcripts.row(1, Message(role=Role.ASSISTANT, text=answered.response.text))])


@pytest.fixture
async def desk(guarded: Database) -> Desk:
    definition = AgentDefinition(name="support", instructions="Help.")
    return Desk(guarded, Gateway(guarded, Router(settings(calls=1)), {}), asking.whole(definition, ()))


async def test_a_budget_to_be_waited_for_lets_the_step_wait_until_its_period_turns_or_somebody_raises_it(desk: Desk) -> None:
    desk.take(settings(calls=1, on_hard="wait"))
    first, second = await new_run(desk.database, 5), await new_run(desk.database, 5)
    assert (await desk.pay(first))[0] == {"text": "the answer"}
    with pytest.raises(StepError, match=r"delayed, about \d+ s: budget day:default has no room \(calls\)") as waits:
        await desk.pay(second)
    assert (waits.value.failure_class, waits.value.wakeable, waits.value.code) == (FailureClass.THROTTLED, True, "budget")
    (waiting,) = await budgets.waiting(desk.database)
    assert (waiting.run_id, waiting.step, waiting.budget) == (second, 1, "day:default")
    assert waits.value.retry_after_s is not None
    assert 1 <= waits.value.retry_after_s <= 86_400

    raised = settings(calls=2, on_hard="wait")
    (shown,) = (await shown_budgets.report(desk.database, raised.budgets)).budgets
    assert (shown.budget, shown.waiting, shown.on_hard, shown.used[0].limit, shown.share) == ("day:default", 1, "wait", 2, 0.5)
    desk.take(raised)
    assert (await desk.pay(second))[0] == {"text": "the answer"}
    assert await desk.database.fetchval("select count(*) from budget_waits") == 0


async def test_a_budget_that_refuses_names_itself_and_makes_no_call(desk: Desk) -> None:
    desk.take(settings(cost_usd=Decimal("0.015")))
    first, second = await new_run(desk.database, 5), await new_run(desk.database, 5)
    await desk.pay(first)
    refused = await desk.pay(second)
    assert isinstance(refused, Refused)
    assert (refused.outcome, refused.refused_by) == ("over_budget", "day:default")
    assert [(each.name, each.dimension, each.in_the_air) for each in refused.refusals] == [("day", "cost_usd", False)]
    assert await budgets.waiting(desk.database) == []


async def test_a_budget_that_nobody_has_used_is_shown_and_so_is_one_that_is_configured_no_more(desk: Desk) -> None:
    desk.take(settings(calls=1))
    await desk.pay(await new_run(desk.database, 5))
    entry = BudgetEntry.model_validate({"scope": "user", "period": "month", "cost_usd": 5, "tokens": 100})
    old, new = (await shown_budgets.report(desk.database, {"monthly": entry})).budgets
    assert (old.budget, old.on_hard, old.share) == ("day:default", None, 1.0)
    assert (new.budget, new.period, [each.dimension for each in new.used], new.share) == ("monthly:*", "month", ["cost_usd", "tokens"], 0.0)
    assert 0 < new.turns_in_s <= 31 * 86_400


MODELS = """
providers: {own: {dialect: openai, base_url: "${env:OWN_MODELS_URL}", api_key_env: OWN_MODELS_KEY}}
models: {"own:m": {input_usd_per_million: 1, output_usd_per_million: 2, context_window_tokens: 10000}}
tiers: {smart: "own:m"}
budgets: {day: {scope: global, period: day, calls: 1, on_hard: %s}}
"""


@dataclass
class House:
    """A worker with a database and a queue of its own, and what reaches them."""

    holdfast: Orchestrator
    environ: dict[str, str]

    async def told(self, *words: str) -> Any:
        """What a command prints with `--json`."""
        command = [sys.executable, "-m", "client.command_line.main", *words, "--json"]
        done = await asyncio.to_thread(subprocess.run, command, env=self.environ, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@contextlib.asynccontextmanager
async def opened(stack: RunningStack, client: Client, url: str, folder: Path, on_hard: str) -> AsyncIterator[House]:
    def policy(_request: SimulatedRequest) -> SimulatedAnswer:
        return SimulatedAnswer(text="Done.")

    (folder / "models.yaml").write_text(MODELS % on_hard, encoding="utf-8")
    (folder / "desk.yaml").write_text("{name: desk, model: smart, instructions: Help.}", encoding="utf-8")
    await migrate(url)
    queue = f"budgets-{uuid.uuid4().hex[:8]}"
    found = Settings(temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=url, task_queue=queue)
    async with simulated_provider(policy) as provider, Database.open(url, max_size=20) as database:
        environ = {"OWN_MODELS_URL": provider.openai_url, "OWN_MODELS_KEY": "key-of-no-worth"}
        reach = {"DATABASE_URL": url, "TEMPORAL_ADDRESS": stack.temporal_address, "TEMPORAL_NAMESPACE": stack.namespace}
        async with (
            serving(client, queue, Parts(database=database, environ=environ), folders=[folder]),
            Orchestrator.connect(found) as holdfast,
        ):
            yield House(holdfast, os.environ | reach)


async def who_waits(house: House, run: Run) -> None:
    async with asyncio.timeout(WITHIN_S):
        while [each.run_id for each in (await house.holdfast.budgets()).waiting] != [run.id]:  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.05)


async def test_a_run_that_waits_for_a_budget_goes_on_when_the_configuration_raises_it(
    stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path
) -> None:
    async with opened(stack, client, new_database_url, tmp_path, "wait") as house:
        assert await house.holdfast.run("desk", "first", timeout_s=WITHIN_S) == "Done."
        run = await house.holdfast.start("desk", "second")
        await who_waits(house, run)
        shown = await house.told("budgets")
        assert [(each["budget"], each["waiting"], each["share"]) for each in shown["budgets"]] == [("day", 1, 1.0)]
        assert shown["waiting"][0]["run_id"] == run.id

        changed = await house.holdfast.config.set("budgets.day.calls", 5, reason="a busy day")
        assert changed.woken == 1
        assert await run.result(timeout_s=WITHIN_S) == "Done."

        costs = await house.told("costs", "--by", "model", "--by", "day", "--since", "1h")
        assert [(line["by"]["model"], line["calls"]) for line in costs["lines"]] == [("own:m", 2)]
        assert Decimal(costs["forecast"]["spent_usd"]) == Decimal(costs["total"]["cost_usd"]) > 0
        assert (await house.holdfast.budgets()).waiting == ()


async def test_a_run_that_a_budget_refuses_is_parked_and_says_which_and_until_when(
    stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path
) -> None:
    async with opened(stack, client, new_database_url, tmp_path, "refuse") as house:
        await house.holdfast.run("desk", "first", timeout_s=WITHIN_S)
        run = await house.holdfast.start("desk", "second")
        async with asyncio.timeout(WITHIN_S):
            while await run.status() is not RunStatus.PARKED:  # noqa: ASYNC110 - visibility tells nobody
                await asyncio.sleep(0.05)
        waits_for = str(await run.view())
        assert "budget day: the next call could pass its calls; its period turns in" in waits_for
        assert "holdfast config set budgets.day.calls" in waits_for
