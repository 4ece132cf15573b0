"""Runs that can wait, from end to end: the real workflow, SDKs and database, and a provider that takes batches in both dialects."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
from temporalio.client import Client

from activities.inference.providers.catalog import Dialect
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.stack import RunningStack
from tests.integration.inference.batch_world import WITHIN_S, House, opened
from workflows.contracts.errors import FailureClass, RunCancelledError
from workflows.contracts.runs import RunStatus


@pytest.fixture(params=list(Dialect))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return Dialect(request.param)


@pytest.fixture
async def house(stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path, dialect: Dialect) -> AsyncIterator[House]:
    async with opened(stack, client, new_database_url, tmp_path, dialect) as found:
        yield found


async def test_work_that_can_wait_is_answered_by_batches_at_half_the_price(house: House) -> None:
    runs = [await house.holdfast.start("desk", f"look {number} up") for number in range(3)]
    assert [await house.answer(run) for run in runs] == [f"Done: look {number} up" for number in range(3)]

    assert {entry.batch for entry in house.provider.journal()} == {True}
    assert len(house.provider.journal()) == 6
    assert len(house.provider.batches.all) < 6, "requests of several runs go into one batch"
    ledger = [call for run in runs for call in await house.calls(run)]
    assert {(call["state"], call["batch"], call["attempt"]) for call in ledger} == {("recorded", True, 1)}
    assert {call["price_version"] for call in ledger} == {"models.yaml, batch"}
    spent = sum((call["cost_usd"] for call in ledger), Decimal(0))
    assert spent == house.billed_usd(in_batches=True) > 0
    assert sum([(await run.view()).totals.cost_usd for run in runs], Decimal(0)) == spent
    books = await house.database.fetchrow("select sum(spent_usd) as spent, sum(reserved_usd) as reserved from runs")
    assert books is not None
    assert (books["spent"], books["reserved"]) == (spent, 0)

    command = [sys.executable, "-m", "client.command_line.main", "costs", "--by", "model", "--json"]
    done = await asyncio.to_thread(subprocess.run, command, env=house.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = json.loads(done.stdout)["lines"]
    assert (line["calls"], Decimal(line["cost_usd"]), Decimal(line["saved_usd"])) == (6, spent, spent)


async def test_while_it_waits_the_run_says_for_what_and_its_worst_case_is_reserved(house: House) -> None:
    house.provider.batches.takes_s = 600
    run = await house.holdfast.start("desk", "whenever")
    view = await house.until(run, "waiting for a batch of own, handed in ")
    assert view.status is RunStatus.RUNNING
    (call,) = await house.calls(run)
    assert (call["state"], call["batch"], call["price_factor"]) == ("in_flight", True, Decimal("0.5"))
    assert call["reserved_usd"] > 0
    house.provider.batches.hurry()
    assert await house.answer(run) == "Done: whenever"


@pytest.mark.parametrize("kind", [FaultKind.BATCH_ANSWER_LOST, FaultKind.BATCH_ANSWER_HELD])
async def test_a_batch_whose_acceptance_nobody_heard_of_is_found_and_not_handed_in_again(house: House, kind: FaultKind) -> None:
    house.provider.add_fault(Fault(kind=kind, count=1))
    run = await house.holdfast.start("desk", "lost")
    assert await house.answer(run) == "Done: lost"
    assert house.provider.fired(kind.value) == 1
    assert len(house.provider.batches.all) == 1
    (call,) = await house.calls(run)
    assert (call["state"], call["cost_usd"]) == ("recorded", house.billed_usd(in_batches=True))


async def test_a_request_whose_batch_expires_is_made_as_an_ordinary_call(house: House) -> None:
    house.provider.add_fault(Fault(kind=FaultKind.BATCH_EXPIRES))
    run = await house.holdfast.start("desk", "late")
    assert await house.answer(run) == "Done: late"
    assert house.provider.fired("batch_expires") == 1
    first, second = await house.calls(run)
    assert (first["state"], first["batch"], first["cost_usd"]) == ("failed", True, 0)
    assert "expired" in first["failure"]
    assert (second["state"], second["batch"], second["cost_usd"]) == ("recorded", False, house.billed_usd(in_batches=False))


async def test_a_cancelled_run_leaves_and_the_last_to_leave_cancels_the_batch(house: House) -> None:
    house.provider.batches.takes_s = 600
    run = await house.holdfast.start("desk", "never mind")
    await house.until(run, "handed in ")
    await run.cancel()
    with pytest.raises(RunCancelledError):
        await run.result(timeout_s=WITHIN_S)
    await house.provider.batches.ended()
    assert [batch.cancelled_at is not None for batch in house.provider.batches.all] == [True]
    (call,) = await house.calls(run)
    assert (call["state"], call["cost_usd"]) == ("unknown", call["reserved_usd"])


async def test_who_leaves_does_not_disturb_the_others_and_a_late_answer_settles_what_it_was_charged(
    stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with opened(stack, client, new_database_url, tmp_path, dialect, gather_s=2.0) as house:
        house.provider.batches.takes_s = 600
        left, stays = [await house.holdfast.start("desk", words) for words in ("never mind", "please")]
        for run in (left, stays):
            await house.until(run, "handed in ")
        assert len(house.provider.batches.all) == 1
        await left.cancel()
        with pytest.raises(RunCancelledError):
            await left.result(timeout_s=WITHIN_S)
        assert [call["state"] for call in await house.calls(left)] == ["unknown"]
        assert house.provider.batches.all[0].cancelled_at is None
        house.provider.batches.hurry()
        assert await house.answer(stays) == "Done: please"
        assert [call["state"] for call in await house.calls(left)] == ["recorded"]
        rows = await house.database.fetchrow("select sum(spent_usd) as spent, sum(unknown_usd) as unknown from runs")
        assert rows is not None
        assert (rows["spent"], rows["unknown"]) == (house.billed_usd(in_batches=True), 0)


async def test_a_request_that_the_provider_refuses_parks_its_own_run_only(house: House) -> None:
    house.provider.add_fault(Fault(kind=FaultKind.BAD_REQUEST, contains="wrong", count=1))
    wrong, right = [await house.holdfast.start("desk", words) for words in ("wrong", "right")]
    assert await house.answer(right) == "Done: right"
    async with asyncio.timeout(WITHIN_S):
        while (parked := (await wrong.view()).parked) is None:  # noqa: ASYNC110 - a workflow tells nobody
            await asyncio.sleep(0.05)
    assert parked.failure_class is FailureClass.CALLER
    await wrong.redrive()
    assert await house.answer(wrong) == "Done: wrong"
    assert [(call["state"], call["batch"]) for call in await house.calls(wrong)] == [("failed", True), ("recorded", True)]


async def test_a_conversation_that_is_too_long_is_summarised_and_goes_on(house: House) -> None:
    house.provider.add_fault(Fault(kind=FaultKind.CONTEXT_TOO_LONG, count=1))
    run = await house.holdfast.start("desk", "a long story")
    assert await house.answer(run)
    assert house.provider.fired("context_too_long") == 1
    assert [call["batch"] for call in await house.calls(run)] == [True, False, True]


async def test_a_provider_without_a_batch_api_is_asked_as_ever(
    stack: RunningStack, client: Client, new_database_url: str, tmp_path: Path, dialect: Dialect
) -> None:
    async with opened(stack, client, new_database_url, tmp_path, dialect, batch_api="null") as house:
        run = await house.holdfast.start("desk", "now")
        assert await house.answer(run) == "Done: now"
        assert [entry.batch for entry in house.provider.journal()] == [False]
