"""Workers die; runs do not, and nothing is paid or done twice."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from decimal import Decimal

from client.run import Run
from tests.acceptance.conftest import House, until
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import RunStatus

RUNS = 10


def request(number: int) -> str:
    """Two look-ups at once, a payment, another look-up."""
    return f"""Order {number}.
call look_up {{"number": {number}}} & look_up {{"number": {number + 1}}}
call pay {{"order_id": "K{number}"}}
call look_up {{"number": {number + 2}}}"""


async def test_a_killed_worker_loses_no_run_and_pays_no_answer_and_no_order_twice(house: House) -> None:
    first = await house.start_worker()
    runs = [await house.holdfast.start("clerk", request(number), idempotency_key=f"kill-{number}") for number in range(RUNS)]
    await until(lambda: _answered(house, 2 * RUNS), "half of the answers are given")
    assert await first.kill() == -signal.SIGKILL
    unfinished = [run for run in runs if await run.status() is RunStatus.RUNNING]
    assert unfinished, "the kill came too late to prove anything"

    await house.start_worker()
    answers = await asyncio.gather(*(run.result(timeout_s=60) for run in runs))

    assert answers[3] == "Done: number 3 is 9; number 4 is 16; K3 paid; number 5 is 25"
    payments = await house.rows("select order_id, count(*) from payments where order_id like 'K%' group by order_id")
    assert {row["order_id"]: row["count"] for row in payments} == {f"K{number}": 1 for number in range(RUNS)}
    await _assert_books_fit_the_journal(house, runs)


async def _answered(house: House, wanted: int) -> bool:
    return sum(entry["billed"] for entry in await house.journal()) >= wanted


async def _assert_books_fit_the_journal(house: House, runs: list[Run]) -> None:
    """Every answer that the provider billed more than once was in the air at the kill, and is in the books as unknown spend."""
    calls = await house.rows("select * from model_calls where run_id = any($1)", [run.id for run in runs])
    billed = Counter(entry["idempotency_key"] for entry in await house.journal() if entry["billed"])
    unknown = Counter(f"{call['run_id']}:{call['step']}" for call in calls if call["state"] == "unknown")
    recorded = Counter(f"{call['run_id']}:{call['step']}" for call in calls if call["state"] == "recorded")
    assert set(recorded.values()) == {1}
    assert {key: count - 1 for key, count in billed.items() if count > 1}.items() <= unknown.items()
    for run in runs:
        mine = [call for call in calls if call["run_id"] == run.id]
        books = (await house.rows("select spent_usd, reserved_usd, unknown_usd from runs where run_id = $1", run.id))[0]
        assert books["spent_usd"] == sum((call["cost_usd"] for call in mine), Decimal(0))
        assert books["unknown_usd"] == sum((call["cost_usd"] for call in mine if call["state"] == "unknown"), Decimal(0))
        assert books["reserved_usd"] == 0


async def test_an_effect_whose_worker_died_in_the_middle_is_parked_and_not_run_again(house: House) -> None:
    worker = await house.start_worker()
    run = await house.holdfast.start("clerk", 'call pay_slowly {"order_id": "M1"}')
    await until(lambda: house.rows("select 1 from payments where order_id = 'M1'"), "the payment is made")
    await worker.kill()
    await house.start_worker()
    await until(lambda: _is(run, RunStatus.PARKED), "the run is parked")

    parked = (await run.view()).parked
    assert parked is not None
    assert parked.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert len(await house.rows("select 1 from payments where order_id = 'M1'")) == 1

    await run.redrive(action="skip", result="M1 was paid, the bank says")
    assert await run.result(timeout_s=30) == "Done: M1 was paid, the bank says"
    assert len(await house.rows("select 1 from payments where order_id = 'M1'")) == 1


async def test_an_effect_of_unknown_outcome_is_done_again_when_a_person_says_so(house: House) -> None:
    worker = await house.start_worker()
    run = await house.holdfast.start("clerk", 'call pay_slowly {"order_id": "M2"}')
    await until(lambda: house.rows("select 1 from payments where order_id = 'M2'"), "the payment is made")
    await worker.kill()
    await house.execute("insert into gates values ('M2')")
    await house.start_worker()
    await until(lambda: _is(run, RunStatus.PARKED), "the run is parked")

    await run.redrive(action="retry")

    assert await run.result(timeout_s=30) == "Done: M2 paid at last"
    keys = {row["idempotency_key"] for row in await house.rows("select idempotency_key from payments where order_id = 'M2'")}
    assert keys == {"default:pay_slowly:order_id=M2"}, "one effect, one key, however often it is tried"
    assert len(await house.rows("select 1 from payments where order_id = 'M2'")) == 2


async def test_a_worker_that_is_told_to_stop_ends_its_call_first_and_leaves_no_unknown_spend(house: House) -> None:
    first = await house.start_worker()
    run = await house.holdfast.start("clerk", 'call look_up {"number": 7}')
    await until(lambda: house.rows("select 1 from model_calls where run_id = $1 and state = 'in_flight'", run.id), "a call is in the air")
    assert await first.stop() == 0
    calls = await house.rows("select state from model_calls where run_id = $1 order by call_id", run.id)
    assert calls[0]["state"] == "recorded"

    await house.start_worker()

    assert await run.result(timeout_s=30) == "Done: number 7 is 49"
    assert (await run.outcome()).totals.unknown_usd == 0


async def test_workers_leave_with_status_zero_again_and_again(house: House) -> None:
    for _ in range(5):
        worker = await house.start_worker()
        run = await house.holdfast.start("clerk", 'call look_up {"number": 2}')
        assert await run.result(timeout_s=30) == "Done: number 2 is 4"
        assert await worker.stop() == 0


async def _is(run: Run, status: RunStatus) -> bool:
    return await run.status() is status
