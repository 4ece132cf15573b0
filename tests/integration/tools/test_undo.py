"""Undoing: an effect of its own, done once, whatever dies; what nobody knows is asked; an undone effect may be done anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from state import effects
from tests.integration.tools.desk import Attempt, Desk, Worker
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError, ToolError
from workflows.contracts.people import Undoable
from workflows.contracts.steps import ToolRunRequest
from workflows.contracts.tools import Tool, ToolContext, tool


class Bank:
    """Pays and takes payments back; both can be counted, and taking back can be made to fail at a chosen moment."""

    def __init__(self) -> None:
        self.paid: list[tuple[str, str]] = []
        self.taken: list[tuple[str, str, str]] = []
        self.fails_before: BaseException | None = None
        self.fails_after: BaseException | None = None
        self.holds: asyncio.Event | None = None
        self.acted = asyncio.Event()

    async def take_back(self, order_id: str, result: str, context: ToolContext) -> str:
        if self.fails_before:
            raise self.fails_before
        self.taken.append((order_id, result, context.idempotency_key))
        self.acted.set()
        if self.holds:
            await self.holds.wait()
        if self.fails_after:
            raise self.fails_after
        return f"{order_id} taken back"

    def tool(self, **options: Any) -> Tool[..., Any]:
        @tool(**{"effect": Effect.ONCE, "key": "order_id", "undo": self.take_back, **options})
        async def pay(order_id: str, context: ToolContext, note: str = "") -> str:
            """Pay."""
            self.paid.append((order_id, context.idempotency_key))
            return f"receipt {len(self.paid)}"

        return pay


@pytest.fixture
def bank() -> Bank:
    return Bank()


async def done(desk: Desk, worker: Worker, pay: Tool[..., Any], order: str = "W1") -> tuple[ToolRunRequest, Undoable]:
    """A run that has paid, and what it may undo."""
    request = await desk.asked(pay.spec, {"order_id": order})
    await desk.attempt(worker, request)
    (effect,) = await desk.undoable(worker, request)
    return request, effect


async def test_an_effect_is_undone_once_with_its_arguments_and_its_result(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    assert (effect.tool, effect.key, effect.step, effect.call_id, effect.timeout_s) == ("pay", "order_id=W1", 2, "call_2", 60)
    first = await desk.take_back(worker, request, effect)
    second = await desk.take_back(worker, request, effect, attempt=2)
    assert first == second
    assert (first.ok, first.preview) == (True, "W1 taken back")
    assert bank.taken == [("W1", "receipt 1", f"{desk.tenant}:pay.undo:order_id=W1")]
    assert await desk.state(pay, "order_id=W1") == "undone"
    assert await desk.undoable(worker, request) == []


async def test_the_last_effect_is_undone_first_sub_runs_included_and_what_was_only_reused_is_not_ours(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    run, _ = await done(desk, worker, pay)
    child = await desk.asked(pay.spec, {"order_id": "W2"}, run_id=f"{run.run_id}.4")
    await desk.database.execute("update runs set parent_run_id = $1 where run_id = $2", run.run_id, child.run_id)
    await desk.attempt(worker, child)
    stranger, _ = await done(desk, worker, pay, "W3")
    await desk.attempt(worker, await desk.asked(pay.spec, {"order_id": "W3"}, run_id=run.run_id, step=6))
    await desk.attempt(worker, await desk.asked(pay.spec, {"order_id": "W4"}, run_id=run.run_id, step=8))
    assert [effect.key for effect in await desk.undoable(worker, run)] == ["order_id=W4", "order_id=W2", "order_id=W1"]
    assert [effect.key for effect in await desk.undoable(worker, stranger)] == ["order_id=W3"]


async def test_a_tool_without_an_undo_and_an_effect_that_failed_are_not_offered(desk: Desk, bank: Bank) -> None:
    pay = bank.tool(undo=None)
    worker, request = desk.worker(pay), await desk.asked(pay.spec, {"order_id": "W1"})
    await desk.attempt(worker, request)
    assert await desk.undoable(worker, request) == []


async def test_an_undone_effect_is_done_anew_and_is_another_one_to_the_other_side(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    one, effect = await done(desk, worker, pay)
    await desk.take_back(worker, one, effect)
    two, again = await done(desk, worker, pay)
    base = f"{desk.tenant}:pay:order_id=W1"
    assert bank.paid == [("W1", base), ("W1", f"{base}:2")], "the bank would answer the first key with the first payment"
    gone = await desk.take_back(worker, one, effect)
    assert gone.preview.startswith("Nothing to undo"), "it is the second run's effect now"
    assert (await desk.take_back(worker, two, again)).ok
    assert [key for *_, key in bank.taken] == [f"{desk.tenant}:pay.undo:order_id=W1", f"{desk.tenant}:pay.undo:order_id=W1:2"]


async def test_an_undo_that_could_do_nothing_parks_leaves_the_effect_standing_and_may_be_tried_again(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.fails_before = ToolError("the day is closed")
    with pytest.raises(StepError, match=r"could not be undone: the day is closed\. It stands\..*skip.*retry") as parked:
        await desk.take_back(worker, request, effect)
    assert (parked.value.failure_class, parked.value.code) == (FailureClass.TOOL, "undo_failed")
    assert await desk.state(pay, "order_id=W1") == "succeeded"
    other = await desk.asked(pay.spec, {"order_id": "W1"})
    assert (await desk.attempt(worker, other)).reused
    bank.fails_before = None
    assert (await desk.take_back(worker, request, effect)).ok
    assert len(bank.taken) == 1


@pytest.mark.parametrize("error", [RuntimeError("line cut"), asyncio.CancelledError()])
async def test_an_undo_that_breaks_off_is_never_run_again_silently(desk: Desk, bank: Bank, error: BaseException) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.fails_after = error
    for attempt in (1, 2):
        with pytest.raises(StepError, match="skip if it was, retry if it was not") as parked:
            await desk.take_back(worker, request, effect, attempt=attempt)
        assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert len(bank.taken) == 1
    assert [row.tool for row in await effects.unknown(desk.database, desk.tenant)] == ["pay.undo"]

    bank.fails_after = None
    assert (await desk.take_back(worker, request, effect, rulings=1)).ok
    assert len(bank.taken) == 2, "the person said: do it again"
    assert await desk.state(pay, "order_id=W1") == "undone"
    rulings = await desk.database.fetch("select tool, ruling from effect_rulings where tenant = $1", desk.tenant)
    assert [tuple(row.values()) for row in rulings] == [("pay.undo", "again")]


async def test_an_undo_that_takes_too_long_is_unknown(desk: Desk, bank: Bank) -> None:
    pay = bank.tool(timeout_s=0.05)
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.holds = asyncio.Event()
    with pytest.raises(StepError, match=r"it took longer than 0\.05 s") as parked:
        await desk.take_back(worker, request, effect)
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME


async def test_a_worker_that_dies_in_mid_undo_leaves_it_unknown_and_nobody_reuses_the_effect_meanwhile(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.holds = asyncio.Event()
    dead = Attempt().begin_undo(worker, desk.to_undo(request, effect))
    await bank.acted.wait()
    other = await desk.asked(pay.spec, {"order_id": "W1"})
    for trying in (desk.take_back(worker, request, effect, attempt=2), desk.attempt(worker, other)):
        with pytest.raises(StepError) as busy:
            await trying
        assert (busy.value.failure_class, busy.value.code) == (FailureClass.THROTTLED, "effect_busy")

    await desk.end_leases()
    with pytest.raises(StepError, match=f"run {request.run_id} to undo pay .*it still stands") as parked:
        await desk.attempt(worker, other, attempt=2)
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    with pytest.raises(StepError) as parked:
        await desk.take_back(worker, request, effect, attempt=3)
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert len(bank.taken) == len(bank.paid) == 1

    bank.holds.set()
    assert (await dead).ok, "given up too early, it brings its result all the same"
    assert (await desk.take_back(worker, request, effect, attempt=4)).preview == "W1 taken back"
    assert not (await desk.attempt(worker, other, activity="2")).reused
    assert len(bank.paid) == 2


async def test_a_check_is_not_asked_whether_an_effect_was_undone(desk: Desk, bank: Bank) -> None:
    """A check knows of payments, and not of payments that were taken back."""
    asked: list[str] = []

    async def was_paid(order_id: str) -> str | None:
        asked.append(order_id)
        return "was paid"

    pay = bank.tool(check=was_paid)
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.fails_after = RuntimeError("line cut")
    with pytest.raises(StepError):
        await desk.take_back(worker, request, effect)
    with pytest.raises(StepError) as parked:
        await desk.attempt(worker, await desk.asked(pay.spec, {"order_id": "W1"}))
    assert (parked.value.failure_class, asked) == (FailureClass.UNKNOWN_OUTCOME, [])


@pytest.mark.parametrize(
    ("tool_name", "ruling", "state"),
    [("pay.undo", "done", "undone"), ("pay.undo", "not_done", "succeeded"), ("pay", "done", "succeeded"), ("pay", "not_done", "undone")],
)
async def test_a_person_rules_on_an_undo_of_unknown_outcome(desk: Desk, bank: Bank, tool_name: str, ruling: Any, state: str) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.fails_after = RuntimeError("line cut")
    with pytest.raises(StepError):
        await desk.take_back(worker, request, effect)
    ruled = {"tenant": desk.tenant, "tool": tool_name, "key": "order_id=W1", "ruling": ruling, "by": "anna"}
    assert await effects.rule(desk.database, **ruled)
    assert not await effects.rule(desk.database, **ruled)
    assert await desk.state(pay, "order_id=W1") == state
    bank.fails_after = None
    again = await desk.take_back(worker, request, effect)
    assert (again.ok, len(bank.taken)) == (True, 1 if state == "undone" else 2)
    assert (await desk.attempt(worker, await desk.asked(pay.spec, {"order_id": "W1"}))).reused is False


async def test_a_step_finds_the_effect_that_it_is_parked_for(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.fails_after = RuntimeError("line cut")
    with pytest.raises(StepError):
        await desk.take_back(worker, request, effect)
    rule = {"tenant": desk.tenant, "run_id": request.run_id, "step": 2, "ruling": "done", "by": "anna"}
    assert await effects.rule_step(desk.database, **rule)  # type: ignore[arg-type]
    assert await desk.state(pay, "order_id=W1") == "undone"
    assert not await effects.rule_step(desk.database, **rule)  # type: ignore[arg-type]


async def test_a_person_who_says_do_it_again_to_the_waiting_run_has_ruled_that_it_was_undone(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.fails_after = RuntimeError("line cut")
    with pytest.raises(StepError):
        await desk.take_back(worker, request, effect)
    other = await desk.asked(pay.spec, {"order_id": "W1"})
    with pytest.raises(StepError):
        await desk.attempt(worker, other)
    assert (await desk.attempt(worker, other, again=True)).preview == "receipt 2"
    gone = await desk.take_back(worker, request, effect, rulings=1)
    assert (gone.preview[:15], len(bank.taken)) == ("Nothing to undo", 1), "the effect that stands now is the other run's"


async def test_arguments_that_the_present_undo_cannot_read_leave_the_effect_standing(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    request, effect = await done(desk, desk.worker(pay), pay)

    @tool(effect=Effect.ONCE, undo=lambda: None, name="pay")
    async def stricter(invoice: int) -> str:
        """Pay."""
        return "paid"

    with pytest.raises(StepError, match="the arguments do not fit") as parked:
        await desk.take_back(desk.worker(stricter), request, effect)
    assert parked.value.failure_class is FailureClass.TOOL
    assert await desk.state(pay, "order_id=W1") == "succeeded"


async def test_a_worker_whose_tool_has_no_undo_leaves_it_to_another(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    request, effect = await done(desk, desk.worker(pay), pay)
    for worker in (desk.worker(bank.tool(undo=None)), desk.worker()):
        with pytest.raises(StepError) as missing:
            await desk.take_back(worker, request, effect)
        assert missing.value.failure_class is FailureClass.TRANSIENT
    assert await desk.state(pay, "order_id=W1") == "succeeded"


async def test_cancelling_in_mid_undo_leaves_it_unknown(desk: Desk, bank: Bank) -> None:
    pay = bank.tool()
    worker = desk.worker(pay)
    request, effect = await done(desk, worker, pay)
    bank.holds = asyncio.Event()
    attempt = Attempt()
    running = attempt.begin_undo(worker, desk.to_undo(request, effect))
    await bank.acted.wait()
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [row.tool for row in await effects.unknown(desk.database, desk.tenant)] == ["pay.undo"]
    assert await desk.state(pay, "order_id=W1") == "undoing"


async def test_an_undo_gets_a_large_result_whole(desk: Desk) -> None:
    seen: list[int] = []

    def forget(result: str) -> None:
        seen.append(len(result))

    @tool(effect=Effect.IDEMPOTENT, undo=forget)
    def export() -> str:
        """Export."""
        return "x" * 100_000

    worker, request = desk.worker(export), await desk.asked(export.spec, {})
    await desk.attempt(worker, request)
    (effect,) = await desk.undoable(worker, request)
    assert (await desk.take_back(worker, request, effect)).preview == "undone"
    assert seen == [100_000]
