"""A worker that is killed while its batch is worked on, or while it hands one in, costs nobody an answer, and nobody pays twice."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from activities.inference import pricing
from devstack.stack import RunningStack
from tests.acceptance.conftest import House, open_house, until
from workflows.contracts.messages import Usage
from workflows.contracts.provider_settings import ModelSettings

MODELS = """
providers: {{waiting: {{dialect: {dialect}, base_url: "{url}", api_key_env: ACCEPTANCE_PROVIDER_KEY, batch_api: true}}}}
models: {{"waiting:m": {{input_usd_per_million: 10, output_usd_per_million: 40, context_window_tokens: 100000}}}}
tiers: {{smart: "waiting:m"}}
batch: {{gather_s: 1.5, submit_timeout_s: 2, first_look_s: 0.5, longest_look_s: 2}}
"""
PRICE = ModelSettings(input_usd_per_million=Decimal(10), output_usd_per_million=Decimal(40))
AGENT = "{name: patient, model: smart, instructions: Do as you are asked., priority: batch, limits: {cost_usd: 5}}"
RUNS = 4


@contextlib.asynccontextmanager
async def patient_house(stack: RunningStack, folder: Path, dialect: str, options: list[str]) -> AsyncIterator[House]:
    """A house whose one agent can wait."""
    async with open_house(stack, folder, options) as house:
        agents = folder / "agents"
        agents.mkdir()
        url = house.urls.openai if dialect == "openai" else house.urls.anthropic
        (agents / "models.yaml").write_text(MODELS.format(dialect=dialect, url=url), encoding="utf-8")
        (agents / "patient.yaml").write_text(AGENT, encoding="utf-8")
        house.agents = (agents,)
        yield house


async def asked(house: House, path: str) -> list[dict[str, Any]]:
    """What the provider tells of itself."""
    async with aiohttp.ClientSession() as http, http.get(f"{house.urls.control}/{path}") as answer:
        return list(await answer.json())


async def taken_in(house: House) -> list[dict[str, Any]]:
    """The batches that the provider has."""
    return await asked(house, "batches")


async def held(house: House) -> bool:
    """Whether a submission hangs."""
    return any(rule["fired"] for rule in await asked(house, "faults"))


async def _assert_paid_once(house: House, run_ids: list[str]) -> None:
    """Each answer is billed once, and the books say the same to the cent: half the price."""
    billed = [entry for entry in await house.journal() if entry["billed"]]
    assert len(billed) == len(run_ids)
    assert {entry["batch"] for entry in billed} == {True}
    rows = await house.rows("select * from model_calls where run_id = any($1)", run_ids)
    assert sorted(row["state"] for row in rows) == ["recorded"] * len(run_ids)
    full = sum((pricing.charge("own", "m", Usage.model_validate(entry["usage"]), PRICE).cost_usd for entry in billed), Decimal(0))
    assert sum((row["cost_usd"] for row in rows), Decimal(0)) == full / 2


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_worker_killed_between_handing_in_and_collecting_loses_and_pays_nothing_twice(
    stack: RunningStack, tmp_path: Path, dialect: str
) -> None:
    async with patient_house(stack, tmp_path, dialect, ["--batch-s", "6"]) as house:
        first = await house.start_worker()
        runs = [await house.holdfast.start("patient", f"Request {number}.") for number in range(RUNS)]
        (batch,) = await until(lambda: taken_in(house), "the batch is handed in")
        assert (batch["requests"], batch["ended"]) == (RUNS, False)
        assert await first.kill() == -signal.SIGKILL

        await house.start_worker()
        assert [await run.result(timeout_s=60) for run in runs] == ["Done: "] * RUNS

        assert [each["id"] for each in await taken_in(house)] == [batch["id"]]
        await _assert_paid_once(house, [run.id for run in runs])


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_a_worker_killed_while_it_hands_a_batch_in_that_was_taken_in_does_not_hand_it_in_again(
    stack: RunningStack, tmp_path: Path, dialect: str
) -> None:
    async with patient_house(stack, tmp_path, dialect, ["--batch-s", "1", "--fault", "batch_answer_held,count=1"]) as house:
        first = await house.start_worker()
        runs = [await house.holdfast.start("patient", f"Request {number}.") for number in range(RUNS)]
        await until(lambda: held(house), "the submission hangs")
        assert await first.kill() == -signal.SIGKILL
        assert await house.rows("select 1 from batches where state = 'sending'"), "the kill came too late to prove anything"

        await house.start_worker()
        assert [await run.result(timeout_s=90) for run in runs] == ["Done: "] * RUNS

        assert [each["requests"] for each in await taken_in(house)] == [RUNS]
        await _assert_paid_once(house, [run.id for run in runs])
