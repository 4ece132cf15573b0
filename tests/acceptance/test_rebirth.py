"""A run whose worker was killed and whose workflow was terminated is brought back to life, and what it paid stays paid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from temporalio.client import Client

from tests.acceptance.conftest import House, until
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import RunStatus

REQUEST = """Two look-ups at once, a payment, another one that takes its time.
call look_up {"number": 3} & look_up {"number": 4}
call pay {"order_id": "R1"}
call pay_slowly {"order_id": "R2"}"""


async def test_a_run_that_lost_its_worker_and_its_workflow_ends_as_another_and_pays_nothing_twice(house: House) -> None:
    worker = await house.start_worker()
    run = await house.holdfast.start("clerk", REQUEST)
    await until(lambda: house.rows("select 1 from payments where order_id = 'R2'"), "the slow payment is made")
    await worker.kill()
    temporal = await Client.connect(house.stack.temporal_address, namespace=house.stack.namespace)
    await temporal.get_workflow_handle(run.id).terminate(reason="by hand")
    await house.start_worker()

    reborn = await house.holdfast.rebirth(run.id)
    await until(lambda: _is(reborn.status, RunStatus.PARKED), "the payment that was in flight is asked for")
    parked = (await reborn.view()).parked
    assert parked is not None
    assert parked.failure_class is FailureClass.UNKNOWN_OUTCOME
    await reborn.redrive(action="skip", result="R2 was paid, the bank says")

    assert await reborn.result(timeout_s=60) == "Done: number 3 is 9; number 4 is 16; R1 paid; R2 was paid, the bank says"
    mine = [entry for entry in await house.journal() if entry["billed"] and str(entry["idempotency_key"]).startswith(run.id)]
    assert Counter(entry["idempotency_key"] for entry in mine) == {f"{run.id}:{step}": 1 for step in (1, 4, 6)} | {f"{reborn.id}:8": 1}
    paid = await house.rows("select order_id, count(*) from payments where order_id in ('R1', 'R2') group by order_id")
    assert {row["order_id"]: row["count"] for row in paid} == {"R1": 1, "R2": 1}
    books = await house.rows("select run_id, spent_usd, reserved_usd, unknown_usd from runs where run_id = any($1)", [run.id, reborn.id])
    assert all(row["spent_usd"] > 0 == row["reserved_usd"] == row["unknown_usd"] for row in books)


async def _is(status: Callable[[], Awaitable[RunStatus]], wanted: RunStatus) -> bool:
    return await status() is wanted
