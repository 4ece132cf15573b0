"""The semantic cache as a user meets it: switched on while a worker runs, hit by a run, told of by `show` and `cache`, ended by a tool."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import Client

from client.command_line.report import put_report
from client.orchestrator import Orchestrator
from client.settings import Settings
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import SimulatedProvider, simulated_provider
from devstack.stack import RunningStack
from state.migrate import migrate
from state.pool import Database
from worker import Parts, serving
from workflows.contracts.messages import Role

EMBEDDINGS = "text-embedding-3-small"
MODELS = """
providers:
  own: {dialect: openai, base_url: "${env:OWN_MODELS_URL}", api_key_env: OWN_MODELS_KEY, prices: openai}
tiers: {smart: "own:gpt-5-mini"}
"""
DESK = """
name: desk
instructions: Help.
tools: [refund]
cache: {ttl_s: 600, tags: [orders]}
"""
TOOLS = '''
from holdfast import Effect, tool

@tool(effect=Effect.ONCE, key="order_id", invalidates=["orders"])
async def refund(order_id: str) -> str:
    """Pay an order back."""
    return f"{order_id} was paid back"
'''
ASKED = "How long does the delivery take to Austria?"
NEAR = "How long does delivery take to Austria?"


def policy(request: SimulatedRequest) -> SimulatedAnswer:
    if request.messages[-1].role is Role.TOOL:
        return SimulatedAnswer(text="Done.")
    if "back" in request.messages[-1].text:
        return SimulatedAnswer(calls=(("refund", {"order_id": "W1"}),))
    return SimulatedAnswer(text=f"Two days, said to: {request.messages[-1].text}")


def asked(provider: SimulatedProvider, model: str) -> int:
    return sum(entry.model == model for entry in provider.journal())


@contextlib.asynccontextmanager
async def opened(stack: RunningStack, client: Client, url: str, folder: Path) -> AsyncIterator[tuple[Orchestrator, SimulatedProvider]]:
    (folder / "models.yaml").write_text(MODELS, encoding="utf-8")
    (folder / "desk.yaml").write_text(DESK, encoding="utf-8")
    (folder / "tools.py").write_text(TOOLS, encoding="utf-8")
    await migrate(url)
    queue = f"meanings-{uuid.uuid4().hex[:8]}"
    found = Settings(temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=url, task_queue=queue)
    async with simulated_provider(policy) as provider, Database.open(url, max_size=20) as database:
        environ = {"OWN_MODELS_URL": provider.openai_url, "OWN_MODELS_KEY": "key-of-no-worth"}
        async with (
            serving(client, queue, Parts(database=database, environ=environ), folders=[folder]),
            Orchestrator.connect(found) as holdfast,
        ):
            yield holdfast, provider


async def test_a_run_is_given_the_answer_to_a_question_that_means_the_same_until_a_tools_effect_makes_it_old(
    stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(stack, client, new_database_url, tmp_path) as (holdfast, provider):
        assert await holdfast.run("desk", NEAR + "?", timeout_s=60)
        assert asked(provider, EMBEDDINGS) == 0, "it is off"
        await holdfast.config.set("cache.semantic", {"model": f"own:{EMBEDDINGS}", "min_similarity": 0.85})
        first = await holdfast.run("desk", ASKED, timeout_s=60)
        run = await holdfast.start("desk", NEAR)
        assert await run.result(timeout_s=60) == first
        report = await run.show()
        (step,) = [step for step in report.steps if step.kind == "model"]
        assert (step.cached, step.simulated) == ("semantic", True)
        assert report.totals.cost_usd == step.cost_usd == (await run.outcome()).totals.cost_usd
        assert Decimal(0) < step.cost_usd < Decimal("0.000001")
        put_report(report)
        assert f"(semantic hit {step.similarity:.3f})" in capsys.readouterr().out
        assert await holdfast.run("desk", "Pay W1 back.", timeout_s=60) == "Done."
        left = await holdfast.cache.list(tags=("orders",))
        assert {entry.kind for entry in left} == {"exact"}, "what the run itself was answered afterwards is new"
        assert len(left) == 1
        assert await holdfast.run("desk", NEAR, timeout_s=60) != first
