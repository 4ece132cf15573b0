"""The demo as a user starts it: a process that plays, kills, recovers and ends with its proof."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from devstack.stack import RunningStack

ROOT = Path(__file__).parents[3]
TICKETS = ROOT / "examples" / "support" / "tickets.jsonl"


@contextlib.asynccontextmanager
async def _demo(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.support.demo", *arguments),
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _played(process: Process, timeout_s: float) -> tuple[int | None, list[str], str]:
    async with asyncio.timeout(timeout_s):
        output, errors = await process.communicate()
    return process.returncode, output.decode().splitlines(), errors.decode()


def _some(folder: Path, *numbers: int) -> str:
    lines = TICKETS.read_text(encoding="utf-8").splitlines()
    path = folder / "some.jsonl"
    path.write_text("\n".join(lines[number - 1] for number in numbers), encoding="utf-8")
    return str(path)


def _come_in_order(text: str, *parts: str) -> None:
    at = 0
    for part in parts:
        assert part in text[at:], f"{part!r} does not come where it should in:\n{text}"
        at = text.index(part, at)


@pytest.mark.slow
async def test_24_tickets_survive_a_killed_worker_within_two_minutes():
    async with _demo("--seed", "5") as process:
        status, lines, errors = await _played(process, timeout_s=120)
    assert status == 0, errors
    proof: dict[str, Any] = json.loads(lines[-1])
    assert (proof["tickets"], proof["finished"], proof["parked"], proof["lost"]) == (24, 24, 0, 0)
    assert (proof["answers_paid_twice"], proof["refunds_done_twice"], proof["billed_calls_not_in_ledger"]) == (0, 0, 0)
    assert proof["kills"] == 1
    assert proof["calls_in_the_air_at_kill"] >= 1
    assert proof["billed_calls"] >= proof["model_calls"] > 100
    assert proof["refunds"] >= 5
    assert (proof["approvals_asked"], proof["approvals_given"], proof["approvals_rejected"]) == (3, 2, 1)
    assert (proof["letters_filed"], proof["letters_redriven"]) == (1, 1)
    assert proof["audit_rows"] >= 4
    assert (proof["refunds_without_a_yes"], proof["orders_missing_in_audit"]) == (0, 0)
    assert 0 < proof["recovery_s"] < 30
    assert proof["unknown_usd"] > 0
    text = "\n".join(lines)
    assert "seed 5" in text
    assert "(SIGKILL)" in text
    assert text.count("(simulated)") >= 2
    began = ("(SIGKILL)", "another worker was started")
    _come_in_order(text, *began, 'signal reject {"call_id": ', "nothing moves any more")
    _come_in_order(
        text,
        *began,
        "support-05: parked at run_tool redirect_order (unknown_outcome)",
        "$ holdfast dead-letters list",
        "unknown_outcome  run_tool redirect_order",
        "the warehouse is repaired",
        "1 fit, 1 ordered to go on",
        "24 of 24 tickets ended",
    )
    assert text.count("support-07: signal reject") == 1 or "refused (" in text
    assert re.search(r"support-05 +completed +#W3004118 sent elsewhere", text)
    assert re.search(r"support-07 +completed +refund refused by a person", text)


@pytest.mark.slow
async def test_a_refund_done_twice_behind_its_back_makes_the_demo_fail(holdfast_stack: RunningStack, tmp_path: Path):
    servers = {"TEMPORAL_ADDRESS": holdfast_stack.temporal_address, "DATABASE_URL": holdfast_stack.database_url}
    connection = await asyncpg.connect(holdfast_stack.database_url)
    try:
        await connection.execute("drop schema if exists shop cascade")
        async with _demo("--no-kill", "--tickets", _some(tmp_path, 1), **servers) as process:
            playing = asyncio.create_task(_played(process, timeout_s=100))
            planted = False
            while not planted and not playing.done():
                with contextlib.suppress(asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
                    done = await connection.execute(
                        "insert into shop.refunds (order_id, amount_usd, method, reason, idempotency_key, run_id) "
                        "select order_id, amount_usd, method, reason, idempotency_key, run_id from shop.refunds"
                    )
                    planted = done != "INSERT 0 0"
                await asyncio.sleep(0.05)
            status, lines, _ = await playing
    finally:
        await connection.close()
    assert planted
    proof = json.loads(lines[-1])
    assert (status, proof["refunds_done_twice"], proof["finished"]) == (1, 1, 1)
    assert proof["broken"] == ["1 refunds were done twice"]


@pytest.mark.slow
async def test_it_stays_up_when_asked_to_and_leaves_nothing_running(tmp_path: Path):
    async with _demo("--keep", "--no-kill", "--tickets", _some(tmp_path, 4)) as process:
        assert process.stdout is not None
        address = ""
        async with asyncio.timeout(90):
            async for raw in process.stdout:
                line = raw.decode()
                if "stays up" in line:
                    address = line.split("stays up: ")[1].split(";")[0]
                    break
        reader, writer = await asyncio.open_connection(*address.removeprefix("http://").split(":"))
        writer.close()
        del reader
        process.send_signal(signal.SIGINT)
        status, lines, errors = await _played(process, timeout_s=60)
    assert status == 0, errors
    assert json.loads(lines[-1])["finished"] == 1
    with pytest.raises(OSError, match=r"refused|failed"):
        await asyncio.open_connection(*address.removeprefix("http://").split(":"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"id": "a"}', "line 1: reason_for_call: field required; add it"),
        ('{"id": "a", "reason_for_call": "x"}\nnonsense', "line 2, column 1: not JSON"),
    ],
)
async def test_wrong_tickets_are_refused_before_anything_is_started(tmp_path: Path, content: str, told: str):
    path = tmp_path / "tickets.jsonl"
    path.write_text(content, encoding="utf-8")
    async with _demo("--tickets", str(path)) as process:
        status, lines, errors = await _played(process, timeout_s=30)
    assert (status, lines) == (2, [])
    assert told in errors
