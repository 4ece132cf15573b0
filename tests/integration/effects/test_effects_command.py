"""`holdfast effects` as a user types it, on a run whose effect nobody knows."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from activities.inference.providers.scripted import tool_call
from devstack.stack import RunningStack
from testkit.processes import addresses
from tests.integration.effects.conftest import WITHIN_S, Open, status_of
from tests.integration.effects.test_effects_of_runs import last_result
from tests.integration.effects.till import open_till
from workflows.contracts.runs import RunStatus


@pytest.fixture
def holdfast(stack: RunningStack):  # type: ignore[no-untyped-def]
    async def run(*arguments: str) -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "client.command_line.main", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | addresses(stack),
        )
        out, error = await asyncio.wait_for(process.communicate(), WITHIN_S)
        return process.returncode, out.decode(), error.decode()

    return run


async def test_an_effect_is_found_ruled_on_and_shown_and_its_run_goes_on_with_what_was_ruled(opened: Open, order: str, holdfast) -> None:  # type: ignore[no-untyped-def]
    till = open_till()
    till.fails = [RuntimeError("line cut")]
    env = await opened(tool_call("pay", order_id=order), last_result)
    run = await env.start("cashier", f"Pay {order}.")
    await status_of(run, RunStatus.PARKED)

    code, out, error = await holdfast("effects", "list", "--unknown", "--run", run.id)
    assert (code, f"{run.id}:2" in out, f"order_id={order}" in out, "line cut" in out) == (0, True, True, True)
    assert "holdfast effects rule" in error
    code, out, error = await holdfast(
        "effects", "rule", f"{run.id}:2", "done", "--result", "paid by hand", "--reason", "I looked.", "--by", "ann"
    )
    assert code == 0, error
    assert "succeeded" in out
    assert "done by ann" in out
    assert f"holdfast redrive {run.id}" in error
    code, out, _ = await holdfast("effects", "show", f"order_id={order}", "--json")
    shown = json.loads(out)
    assert (shown["effect"]["result"], shown["rulings"][-1]["reason"]) == ("paid by hand", "I looked.")
    await run.redrive()
    assert await run.result(timeout_s=WITHIN_S) == "paid by hand"
    assert till.did == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show",), "Say which effect: `holdfast effects show RUN:STEP`"),
        (("rule", "nothing:1"), "Say what you found out"),
        (("rule", "nothing:1", "done"), "There is no effect of unknown outcome with the key or the step 'nothing:1'"),
        (("rule", "nothing:1", "perhaps"), "perhaps"),
    ],
)
async def test_wrong_orders_are_one_line_and_exit_code_2(holdfast, arguments: tuple[str, ...], message: str) -> None:  # type: ignore[no-untyped-def]
    code, out, error = await holdfast("effects", *arguments)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert message in error
