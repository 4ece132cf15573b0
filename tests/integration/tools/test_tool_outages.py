"""The database goes away while a tool runs, and a worker is killed while it runs: nothing is done twice, nothing done is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devstack.postgres import EmbeddedPostgres, PostgresSettings
from devstack.stack import RunningStack
from state import effects
from state.migrate import migrate
from state.pool import Database
from tests.integration.tools import dying_worker
from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.people import UndoRequest
from workflows.contracts.steps import ToolRunRequest
from workflows.contracts.tools import tool

ROOT = Path(__file__).parents[3]


@contextlib.asynccontextmanager
async def own_database() -> AsyncIterator[tuple[EmbeddedPostgres, Database]]:
    """A server that a test may take down."""
    postgres = EmbeddedPostgres(PostgresSettings())
    async with postgres.running():
        await migrate(postgres.dsn)
        async with Database.open(postgres.dsn, min_size=1, max_size=3) as database:
            yield postgres, database


@pytest.mark.slow
async def test_a_result_is_held_while_the_database_is_away_and_written_when_it_is_back() -> None:
    async with own_database() as (postgres, database):
        desk, ran = Desk(database), 0

        @tool(effect=Effect.ONCE, key="order_id")
        async def refund(order_id: str) -> str:
            """Pay an order back."""
            nonlocal ran
            ran += 1
            await postgres.kill()
            return "paid"

        worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
        running = Attempt().begin(worker, request)
        await asyncio.wait([running], timeout=1.5)
        assert postgres.pid is None, "the server was to be down"
        assert not running.done(), "the attempt was to wait for the database"
        await postgres.start()
        assert (await running).preview == "paid"
        assert (await desk.attempt(worker, request, attempt=2)).preview == "paid"
        assert (ran, await desk.state(refund, "order_id=W1")) == (1, "succeeded")
        await desk.close()


@pytest.mark.slow
async def test_a_holder_cut_off_from_the_database_is_not_taken_as_dead_when_it_comes_back() -> None:
    async with own_database() as (postgres, database):
        desk, go_on, began = Desk(database), asyncio.Event(), asyncio.Event()

        @tool(effect=Effect.ONCE, key="order_id")
        async def refund(order_id: str) -> str:
            """Pay an order back."""
            began.set()
            await go_on.wait()
            return "paid"

        worker = desk.worker(refund)
        one, two = await desk.asked(refund.spec, {"order_id": "W1"}), await desk.asked(refund.spec, {"order_id": "W1"})
        holder = Attempt().begin(worker, one)
        await began.wait()
        await desk.end_leases()  # as after an outage longer than a lease
        await postgres.kill()
        await postgres.start()
        with pytest.raises(StepError) as busy:
            await desk.attempt(worker, two)
        assert busy.value.failure_class is FailureClass.THROTTLED
        go_on.set()
        assert (await holder).preview == "paid"
        assert (await desk.attempt(worker, two, attempt=2)).reused
        await desk.close()


@contextlib.asynccontextmanager
async def worker_process(stack: RunningStack, request: ToolRunRequest | UndoRequest) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", dying_worker.__name__),
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": stack.database_url, "REQUEST": request.model_dump_json()},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "comes_back_as", "acts"),
    [("pay_idempotent", "paid", 2), ("pay_once", FailureClass.UNKNOWN_OUTCOME, 1), ("pay_checked", "was paid", 1)],
)
async def test_after_kill_9_in_mid_tool_each_kind_does_what_it_declares(
    desk: Desk, stack: RunningStack, name: str, comes_back_as: str | FailureClass, acts: int
) -> None:
    await desk.database.execute(dying_worker.TABLE)
    one = dying_worker.TOOLS[name]
    request = await desk.asked(one.spec, {"order_id": f"W-{name}"})
    async with worker_process(stack, request) as process:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"acted\n"
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL, "the worker was to be killed"
    assert await desk.state(one, request=request) == "started"

    worker = desk.worker(one, providers=[dying_worker.database_provider(desk.database)])
    outcome: str | FailureClass = FailureClass.THROTTLED
    async with asyncio.timeout(2 * effects.LEASE_S):
        for attempt in range(2, 100):
            try:
                outcome = (await desk.attempt(worker, request, attempt=attempt)).preview
            except StepError as error:
                outcome = error.failure_class
                if error.failure_class is FailureClass.THROTTLED:
                    await asyncio.sleep(error.retry_after_s or 0)
                    continue
            break
    assert outcome == comes_back_as
    keys = await desk.database.fetch("select key from dying_worker_acts where order_id = $1", f"W-{name}")
    assert [row["key"] for row in keys] == [f"{request.run_id}:2"] * acts


@pytest.mark.slow
async def test_after_kill_9_in_mid_undo_nothing_is_taken_back_again_until_a_person_says_so(desk: Desk, stack: RunningStack) -> None:
    await desk.database.execute(dying_worker.TABLE)
    pay, order = dying_worker.pay_undoable, f"W-{desk.tenant}"
    worker = desk.worker(pay, providers=[dying_worker.database_provider(desk.database)])
    request = await desk.asked(pay.spec, {"order_id": order})
    await desk.attempt(worker, request)
    (effect,) = await desk.undoable(worker, request)
    async with worker_process(stack, desk.to_undo(request, effect)) as process:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"acted\n"
        process.kill()
        assert await process.wait() == -signal.SIGKILL
    await desk.end_leases()
    for attempt in (2, 3):
        with pytest.raises(StepError, match="its worker ended before the undoing did") as parked:
            await desk.take_back(worker, request, effect, attempt=attempt)
        assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert await desk.state(pay, request=request) == "undoing"
    acts = "select key from dying_worker_acts where order_id = $1"
    assert len(await desk.database.fetch(acts, f"back {order}")) == 1
    assert (await desk.take_back(worker, request, effect, rulings=1)).ok
    keys = [row["key"] for row in await desk.database.fetch(acts, f"back {order}")]
    assert len(keys) == 2
    assert len(set(keys)) == 1, "one undo, one key, however often it is tried"
