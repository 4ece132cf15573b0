"""A `once` tool: done once, whatever dies; what nobody knows is never run again silently."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from state import effects
from state.pool import Database
from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError, ToolError
from workflows.contracts.tools import Tool, ToolContext, tool


class Shop:
    """A world in which refunds can be counted, and which can be made to fail at a chosen moment."""

    def __init__(self) -> None:
        self.refunds: list[str] = []
        self.keys: list[str] = []
        self.fails_before: BaseException | None = None
        self.fails_after: BaseException | None = None
        self.holds_after: asyncio.Event | None = None
        self.acted = asyncio.Event()

    async def refund(self, order_id: str, key: str) -> str:
        if self.fails_before:
            raise self.fails_before
        self.refunds.append(order_id)
        self.keys.append(key)
        self.acted.set()
        if self.holds_after:
            await self.holds_after.wait()
        if self.fails_after:
            raise self.fails_after
        return f"{order_id} refunded"

    def tool(self, *, check: bool = False, **options: Any) -> Tool[..., Any]:
        async def was_refunded(order_id: str) -> str | None:
            return f"{order_id} was refunded" if order_id in self.refunds else None

        @tool(effect=Effect.ONCE, check=was_refunded if check else None, **options)
        async def refund(order_id: str, context: ToolContext, note: str = "") -> str:
            """Pay an order back."""
            return await self.refund(order_id, context.idempotency_key)

        return refund


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def test_a_second_attempt_gets_the_recorded_result(desk: Desk, shop: Shop) -> None:
    refund = shop.tool()
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    first = await desk.attempt(worker, request)
    second = await desk.attempt(worker, request, attempt=2)
    assert first == second
    assert (first.ok, first.preview, shop.refunds) == (True, "W1 refunded", ["W1"])
    assert shop.keys == [f"{request.run_id}:2"]
    assert await desk.state(refund, request=request) == "succeeded"


async def test_after_a_worker_died_in_mid_tool_nothing_runs_again_until_a_person_says_so_once(desk: Desk, shop: Shop) -> None:
    refund, shop.holds_after = shop.tool(), asyncio.Event()
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    dead = Attempt().begin(worker, request)
    await shop.acted.wait()
    with pytest.raises(StepError) as waits:
        await desk.attempt(worker, request, attempt=2)
    assert (waits.value.failure_class, waits.value.code) == (FailureClass.THROTTLED, "effect_busy")
    await desk.end_leases()
    for attempt in (3, 4):
        with pytest.raises(StepError, match=r"its worker ended before the tool did.*skip with the result.*retry") as parked:
            await desk.attempt(worker, request, attempt=attempt)
        assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert shop.refunds == ["W1"]

    shop.fails_after = RuntimeError("line cut")
    shop.holds_after.set()
    dead.cancel()
    with pytest.raises(StepError, match="line cut"):
        await desk.attempt(worker, request, activity="2", again=True)
    assert shop.refunds == ["W1", "W1"], "the person said: do it again"
    with pytest.raises(StepError) as parked:
        await desk.attempt(worker, request, activity="2", attempt=2, again=True)
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert shop.refunds == ["W1", "W1"], "a ruling counts once, not for every attempt after it"


async def test_an_attempt_given_up_too_early_may_still_bring_its_result(desk: Desk, shop: Shop) -> None:
    refund, shop.holds_after = shop.tool(), asyncio.Event()
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    slow = Attempt().begin(worker, request)
    await shop.acted.wait()
    await desk.end_leases()
    with pytest.raises(StepError):
        await desk.attempt(worker, request, attempt=2)
    assert await desk.state(refund, request=request) == "unknown"
    shop.holds_after.set()
    assert (await slow).ok
    assert await desk.state(refund, request=request) == "succeeded"
    assert (await desk.attempt(worker, request, activity="2", again=True)).ok
    assert shop.refunds == ["W1"]


async def test_the_tools_own_check_finds_that_a_dead_attempt_did_its_work(desk: Desk, shop: Shop) -> None:
    refund, shop.holds_after = shop.tool(check=True), asyncio.Event()
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    dead = Attempt().begin(worker, request)
    await shop.acted.wait()
    await desk.end_leases()
    outcome = await desk.attempt(worker, request, attempt=2)
    dead.cancel()
    assert (outcome.ok, outcome.preview, shop.refunds) == (True, "W1 was refunded", ["W1"])
    assert await desk.state(refund, request=request) == "succeeded"


async def test_the_tools_own_check_finds_that_a_dead_attempt_did_nothing_so_it_is_run(desk: Desk, shop: Shop) -> None:
    refund = shop.tool(check=True)
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    await effects.begin(desk.database, effects.Claim(request, refund.spec, "of a dead attempt", "w"))
    await desk.end_leases()
    assert (await desk.attempt(worker, request, attempt=2)).preview == "W1 refunded"
    assert shop.refunds == ["W1"]
    row = await desk.row(refund, request=request)
    assert row is not None
    assert row.attempts == 2


async def test_a_tool_error_means_that_nothing_was_done_and_is_told_to_the_model(desk: Desk, shop: Shop) -> None:
    refund, shop.fails_before = shop.tool(key="order_id"), ToolError("This order was not delivered yet.")
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    assert not (await desk.attempt(worker, request)).ok
    told = await desk.told(request)
    assert told is not None
    assert (told.text, told.is_error, told.call_id) == ("This order was not delivered yet.", True, "call_2")
    assert await desk.state(refund, "order_id=W1") == "failed"

    shop.fails_before = None
    later = await desk.asked(refund.spec, {"order_id": "W1"})
    assert (await desk.attempt(worker, later)).ok
    assert shop.refunds == ["W1"]


@pytest.mark.parametrize("error", [RuntimeError("line cut"), TimeoutError(), asyncio.CancelledError()])
async def test_any_other_exception_leaves_the_outcome_unknown(desk: Desk, shop: Shop, error: BaseException) -> None:
    refund, shop.fails_after = shop.tool(), error
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    with pytest.raises(StepError) as parked:
        await desk.attempt(worker, request)
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert await desk.told(request) is None
    assert [row.reason for row in await effects.unknown(desk.database, desk.tenant)] == [
        "it broke off: " + (f"{type(error).__name__}: {error}")
    ]


async def test_a_raising_tool_with_a_check_is_asked_at_once_and_never_loops(desk: Desk, shop: Shop) -> None:
    refund, shop.fails_before = shop.tool(check=True), RuntimeError("no connection")
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    assert not (await desk.attempt(worker, request)).ok
    told = await desk.told(request)
    assert told is not None
    assert told.text == "refund failed: RuntimeError: no connection. Nothing was done: this was checked."
    assert await desk.state(refund, request=request) == "failed"

    shop.fails_before, shop.fails_after = None, RuntimeError("line cut")
    later = await desk.asked(refund.spec, {"order_id": "W2"})
    assert (await desk.attempt(worker, later)).preview == "W2 was refunded"


async def test_a_check_that_fails_itself_is_asked_a_few_times_then_a_person_is(desk: Desk, shop: Shop) -> None:
    async def broken(order_id: str) -> str | None:
        raise ConnectionError("no way to know")

    @tool(effect=Effect.ONCE, check=broken)
    async def refund(order_id: str) -> str:
        """Pay an order back."""
        return await shop.refund(order_id, "")

    shop.fails_after = RuntimeError("line cut")
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    classes = []
    for attempt in range(1, 6):
        with pytest.raises(StepError) as failed:
            await desk.attempt(worker, request, attempt=attempt)
        classes.append(failed.value.failure_class)
    assert classes == [FailureClass.TRANSIENT] * 4 + [FailureClass.UNKNOWN_OUTCOME]
    assert "no way to know" in str(failed.value)
    assert shop.refunds == ["W1"]


async def test_cancelling_reaches_the_tool_and_leaves_the_outcome_unknown(desk: Desk, shop: Shop) -> None:
    refund, shop.holds_after = shop.tool(), asyncio.Event()
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    attempt = Attempt()
    running = attempt.begin(worker, request)
    await shop.acted.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await desk.state(refund, request=request) == "unknown"


async def test_a_tool_may_answer_a_cancellation_by_ending_its_work(desk: Desk) -> None:
    began = asyncio.Event()

    @tool(effect=Effect.ONCE)
    async def refund(order_id: str) -> str:
        """Pay an order back."""
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ToolError("Stopped before anything was paid.") from None
        return "done"

    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"})
    attempt = Attempt()
    running = attempt.begin(worker, request)
    await began.wait()
    attempt.cancel()
    assert not (await running).ok
    assert await desk.state(refund, request=request) == "failed"


async def test_a_person_can_rule_in_the_ledger_itself(desk: Desk, shop: Shop, database: Database) -> None:
    refund, shop.fails_after = shop.tool(key="order_id"), RuntimeError("line cut")
    worker = desk.worker(refund)
    for order, ruling in (("W1", "done"), ("W2", "not_done")):
        request = await desk.asked(refund.spec, {"order_id": order})
        with pytest.raises(StepError):
            await desk.attempt(worker, request)
        ruled = {"tenant": desk.tenant, "tool": "refund", "key": f"order_id={order}", "ruling": ruling, "by": "anna", "result": "I saw it."}
        assert await effects.rule(database, **ruled)  # type: ignore[arg-type]
        assert not await effects.rule(database, **ruled), "only what is unknown can be ruled on"  # type: ignore[arg-type]
    shop.fails_after = None
    one, two = await desk.asked(refund.spec, {"order_id": "W1"}), await desk.asked(refund.spec, {"order_id": "W2"})
    assert (await desk.attempt(worker, one)).preview == "I saw it."
    assert (await desk.attempt(worker, two)).preview == "W2 refunded"
    assert shop.refunds == ["W1", "W2", "W2"]
    rulings = await database.fetch("select key, ruling, ruled_by from effect_rulings where tenant = $1 order by ruling_id", desk.tenant)
    assert [tuple(row.values()) for row in rulings] == [("order_id=W1", "done", "anna"), ("order_id=W2", "not_done", "anna")]
