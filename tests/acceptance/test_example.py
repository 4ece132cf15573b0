"""The example of the design document and the README, word for word, as a user types it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.processes import addresses, provider_process, worker_process
from tests.acceptance.conftest import House, until

TOOL = '''from holdfast import Effect, Orchestrator, tool

@tool(effect=Effect.ONCE, approve="amount_usd > 50", key="order_id")
async def refund(order_id: str, amount_usd: Decimal) -> str:
    """Pay an order back to the customer."""
    ...
'''
AGENT = """name: support            # agents/support.yaml
model: smart
instructions: You answer customers of a shop. …
tools: [find_order, refund]
limits: {steps: 20, cost_usd: 0.50}
"""
CALLER = """async with Orchestrator.connect() as holdfast:
    run = await holdfast.start("support", "My order W17 came broken.", user="u1", idempotency_key="ticket-17")
    print(await run.result())
"""
BESIDE = '''from __future__ import annotations

from decimal import Decimal

from holdfast import tool


@tool
async def find_order(order_id: str) -> dict[str, str]:
    """Find an order."""
    return {"order_id": order_id, "status": "delivered"}


'''
POLICY = '''
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest


def answer(request: SimulatedRequest) -> SimulatedAnswer:
    """Look the order up, refund AMOUNT, say so."""
    results = [message for message in request.messages if message.role == "tool"]
    if not results:
        return SimulatedAnswer(calls=(("find_order", {"order_id": "W17"}),))
    if len(results) == 1:
        return SimulatedAnswer(calls=(("refund", {"order_id": "W17", "amount_usd": AMOUNT}),))
    return SimulatedAnswer(text="Your order W17 is refunded." if not results[1].is_error else results[1].text)
'''
MODELS = """providers:
  openai: {dialect: openai, base_url: "${env:OPENAI_BASE_URL}", api_key_env: OPENAI_API_KEY}
"""


def test_the_readme_shows_the_example_word_for_word() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for part in (TOOL, AGENT, CALLER):
        assert part.strip() in readme


@pytest.fixture
async def shop(house: House, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[dict[str, str]]:
    """The example's folder, served by a worker; gives the environment for its caller."""
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "support.yaml").write_text(AGENT, encoding="utf-8")
    (folder / "tools.py").write_text(
        BESIDE + TOOL.replace("from holdfast import Effect, Orchestrator, tool", "from holdfast import Effect")
    )
    (folder / "models.yaml").write_text(MODELS)
    policy = tmp_path / "policy.py"
    policy.write_text(POLICY.replace("AMOUNT", request.param))
    async with provider_process(f"{policy}:answer", dict(os.environ), tmp_path / "provider") as urls:
        environ = dict(os.environ) | addresses(house.stack)
        environ |= {"HOLDFAST_TASK_QUEUE": house.settings.task_queue, "OPENAI_BASE_URL": urls.openai, "OPENAI_API_KEY": "simulated"}
        async with worker_process([folder], environ, tmp_path):
            yield environ


def _script(tmp_path: Path) -> Path:
    caller = "\n".join("    " + line for line in CALLER.splitlines())
    path = tmp_path / "caller.py"
    path.write_text(f"import asyncio\nfrom holdfast import Orchestrator\n\nasync def main():\n{caller}\n\nasyncio.run(main())\n")
    return path


@pytest.mark.parametrize("shop", ["30"], indirect=True)
async def test_the_example_answers(shop: dict[str, str], tmp_path: Path) -> None:
    caller = await asyncio.create_subprocess_exec(
        sys.executable, str(_script(tmp_path)), env=shop, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(caller.communicate(), 60)
    assert re.search(r"^Your order W17 is refunded\.$", out.decode(), re.MULTILINE), err.decode()


@pytest.mark.parametrize("shop", ["80"], indirect=True)
async def test_the_example_asks_a_person_above_fifty(shop: dict[str, str], tmp_path: Path, house: House) -> None:
    run = await house.holdfast.start("support", "My order W17 came broken.", user="u1", idempotency_key=f"ask-{house.settings.task_queue}")

    async def asked() -> bool:
        return bool((await run.view()).approvals)

    await until(asked, "the run waits for a person")
    assert [approval.tool for approval in (await run.view()).approvals] == ["refund"]
    assert not await house.rows("select 1 from effects where run_id = $1", run.id)

    await run.approve(by="ann")

    assert await run.result(timeout_s=30) == "Your order W17 is refunded."
