"""Servers go away in mid-run and come back; runs wait for them and go on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.stack import StackSettings, open_stack
from tests.acceptance.conftest import House, open_house, until
from workflows.contracts.runs import RunStatus

DATABASE_AWAY_S = 20.0
TEMPORAL_AWAY_S = 3.0

REQUEST = """Twelve turns.
""" + "\n".join(f'call look_up {{"number": {number}}}' for number in range(12))


@pytest.fixture
async def own_house(tmp_path: Path) -> AsyncIterator[House]:
    """A house whose servers this test may take down."""
    settings = StackSettings(ui_port=None, data=tmp_path / "data")
    async with open_stack(settings) as stack, open_house(stack, tmp_path, ["--latency", "*,first_token_s=0.3"]) as opened:
        yield opened


async def test_a_run_outlives_twenty_seconds_without_its_database(own_house: House) -> None:
    await own_house.start_worker()
    run = await own_house.holdfast.start("clerk", REQUEST)
    await until(lambda: own_house.journal(), "the run has begun")
    await own_house.stack.kill_postgres()
    gone_at = time.monotonic()
    with pytest.raises(OSError, match="Connect"):
        await own_house.rows("select 1")
    await until(lambda: _passed(gone_at, DATABASE_AWAY_S), "the outage has lasted")
    await own_house.stack.start_postgres()

    answer = await run.result(timeout_s=90)

    assert answer.endswith("number 11 is 121")
    outcome = await run.outcome()
    assert outcome.totals.calls == 13
    billed = [entry["idempotency_key"] for entry in await own_house.journal() if entry["billed"]]
    unknown = await own_house.rows("select 1 from model_calls where run_id = $1 and state = 'unknown'", run.id)
    assert len(billed) - len(set(billed)) <= len(unknown), "an answer was paid twice though its worker lived"


async def test_a_run_outlives_a_restart_of_temporal(own_house: House) -> None:
    await own_house.start_worker()
    run = await own_house.holdfast.start("clerk", REQUEST)
    await until(lambda: own_house.journal(), "the run has begun")
    await own_house.stack.kill_temporal()
    gone_at = time.monotonic()
    await until(lambda: _passed(gone_at, TEMPORAL_AWAY_S), "the outage has lasted")
    await own_house.stack.start_temporal()

    answer = await run.result(timeout_s=90)

    assert answer.endswith("number 11 is 121")
    assert await run.status() is RunStatus.COMPLETED
    billed = [entry["idempotency_key"] for entry in await own_house.journal() if entry["billed"]]
    unknown = await own_house.rows("select 1 from model_calls where run_id = $1 and state = 'unknown'", run.id)
    assert len(billed) - len(set(billed)) <= len(unknown)


async def _passed(since: float, seconds: float) -> bool:
    return time.monotonic() - since >= seconds
