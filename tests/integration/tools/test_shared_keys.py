"""A business key: two calls with one value are one effect, in whichever run."""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Annotated

import pytest
from pydantic import BaseModel, StringConstraints

from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.tools import ToolContext, tool

Tidy = Annotated[str, StringConstraints(strip_whitespace=True, to_upper=True)]


async def test_two_runs_with_one_key_do_it_once_and_both_get_the_result(desk: Desk) -> None:
    done: list[str] = []

    @tool(effect=Effect.ONCE, key="order_id")
    async def refund(order_id: str, context: ToolContext) -> dict[str, object]:
        """Pay an order back."""
        done.append(context.idempotency_key)
        return {"refund": 17}

    worker = desk.worker(refund)
    one, two = await desk.asked(refund.spec, {"order_id": "W1"}), await desk.asked(refund.spec, '{ "order_id" : "W1" }')
    outcomes = [await desk.attempt(worker, one), await desk.attempt(worker, two)]
    assert [(outcome.ok, outcome.reused, outcome.preview) for outcome in outcomes] == [
        (True, False, '{"refund":17}'),
        (True, True, '{"refund":17}'),
    ]
    assert done == [f"{desk.tenant}:refund:order_id=W1"]
    told = await desk.told(two)
    assert told is not None
    assert (told.text, told.call_id) == ('{"refund":17}', two.call_id)


async def test_a_second_call_with_other_arguments_is_told_that_it_was_not_done_now(desk: Desk) -> None:
    paid: list[int] = []

    @tool(effect=Effect.ONCE, key="order_id")
    async def refund(order_id: str, amount: int) -> str:
        """Pay an order back."""
        paid.append(amount)
        return f"{amount} paid"

    worker = desk.worker(refund)
    one = await desk.asked(refund.spec, {"order_id": "W1", "amount": 10})
    await desk.attempt(worker, one)
    again = await desk.asked(refund.spec, {"order_id": "W1", "amount": 60}, run_id=one.run_id, step=4)
    other = await desk.asked(refund.spec, {"order_id": "W1", "amount": 60})
    assert (await desk.attempt(worker, again)).reused
    assert (await desk.attempt(worker, other)).reused
    first, second = await desk.told(again), await desk.told(other)
    assert first is not None
    assert second is not None
    assert first.text == "Not done now: it was done before, earlier in this run, with other arguments. The result then: 10 paid"
    assert second.text == f"Not done now: it was done before, by run {one.run_id}, with other arguments. The result then: 10 paid"
    assert paid == [10]


@pytest.mark.parametrize("effect", [Effect.ONCE, Effect.IDEMPOTENT])
async def test_a_run_waits_while_another_one_alive_does_it(desk: Desk, effect: Effect) -> None:
    go_on, began = asyncio.Event(), asyncio.Event()

    @tool(effect=effect, key="order_id")
    async def refund(order_id: str) -> str:
        """Pay an order back."""
        began.set()
        await go_on.wait()
        return "paid"

    worker = desk.worker(refund)
    one, two = await desk.asked(refund.spec, {"order_id": "W1"}), await desk.asked(refund.spec, {"order_id": "W1"})
    holder = Attempt().begin(worker, one)
    await began.wait()
    with pytest.raises(StepError, match=f"step 2 of run {one.run_id}") as busy:
        await desk.attempt(worker, two)
    assert busy.value.failure_class is FailureClass.THROTTLED
    assert 0 < (busy.value.retry_after_s or 0) <= 2
    go_on.set()
    assert not (await holder).reused
    assert (await desk.attempt(worker, two, attempt=2)).reused


async def test_an_idempotent_tool_is_run_again_with_the_same_key_when_its_holder_died(desk: Desk) -> None:
    began, keys = asyncio.Event(), []

    @tool(effect=Effect.IDEMPOTENT, key="order_id")
    async def ship(order_id: str, context: ToolContext) -> str:
        """Ship an order."""
        keys.append(context.idempotency_key)
        began.set()
        if len(keys) == 1:
            await asyncio.Event().wait()
        return "shipped"

    worker = desk.worker(ship)
    one, two = await desk.asked(ship.spec, {"order_id": "W1"}), await desk.asked(ship.spec, {"order_id": "W1"})
    dead = Attempt().begin(worker, one)
    await began.wait()
    await desk.end_leases()
    assert (await desk.attempt(worker, two)).ok
    dead.cancel()
    assert keys == [f"{desk.tenant}:ship:order_id=W1"] * 2
    assert (await desk.attempt(worker, one, attempt=2)).reused
    assert len(keys) == 2


async def test_the_same_runs_next_attempt_of_an_idempotent_tool_need_not_wait_for_a_lease(desk: Desk) -> None:
    calls = 0

    @tool(effect=Effect.IDEMPOTENT, retries=1)
    async def ship(order_id: str) -> str:
        """Ship an order."""
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ConnectionError("line cut")
        return "shipped"

    worker, request = desk.worker(ship), await desk.asked(ship.spec, {"order_id": "W1"})
    with pytest.raises(StepError) as retried:
        await desk.attempt(worker, request)
    assert retried.value.failure_class is FailureClass.TRANSIENT
    assert (await desk.attempt(worker, request, attempt=2)).preview == "shipped"


async def test_the_key_is_the_argument_as_the_tool_reads_it(desk: Desk) -> None:
    done: list[str] = []

    @tool(effect=Effect.ONCE, key="order_id")
    async def refund(order_id: Tidy) -> str:
        """Pay an order back."""
        done.append(order_id)
        return "paid"

    worker = desk.worker(refund)
    for spelling in ("W1", " w1 ", "w1"):
        await desk.attempt(worker, await desk.asked(refund.spec, {"order_id": spelling}))
    assert done == ["W1"]
    rows = await desk.database.fetch("select key, state from effects where tenant = $1", desk.tenant)
    assert [tuple(row.values()) for row in rows] == [("order_id=W1", "succeeded")]


async def test_numbers_choices_and_fields_of_a_model_can_be_keys(desk: Desk) -> None:
    class Size(Enum):
        SMALL = "s"

    class Parcel(BaseModel):
        number: int
        size: Size = Size.SMALL

    @tool(effect=Effect.ONCE, key="number")
    async def send(parcel: Parcel) -> str:
        """Send a parcel."""
        return f"{parcel.number} sent"

    @tool(effect=Effect.ONCE, key="size")
    async def pack(size: Size) -> str:
        """Pack one of this size."""
        return "packed"

    worker = desk.worker(send, pack)
    await desk.attempt(worker, await desk.asked(send.spec, {"number": 17}))
    assert (await desk.attempt(worker, await desk.asked(send.spec, {"number": "17"}))).reused
    await desk.attempt(worker, await desk.asked(pack.spec, {"size": "s"}))
    assert await desk.state(send, "number=17") == await desk.state(pack, "size=s") == "succeeded"


async def test_without_a_value_the_step_is_the_key(desk: Desk) -> None:
    done: list[str] = []

    @tool(effect=Effect.ONCE, key="order_id")
    async def note(text: str, context: ToolContext, order_id: str | None = None) -> str:
        """Write a note, on an order or on none."""
        done.append(context.idempotency_key)
        return "noted"

    worker = desk.worker(note)
    for arguments in ({"text": "a"}, {"text": "b", "order_id": None}, {"text": "c", "order_id": ""}):
        request = await desk.asked(note.spec, arguments)
        assert not (await desk.attempt(worker, request)).reused
        assert done[-1] == f"{request.run_id}:2"


async def test_tenants_and_tools_do_not_share_keys(desk: Desk) -> None:
    done: list[str] = []

    @tool(effect=Effect.ONCE, key="order_id")
    async def refund(order_id: str) -> str:
        """Pay an order back."""
        done.append("refund")
        return "paid"

    @tool(effect=Effect.ONCE, key="order_id")
    async def cancel(order_id: str) -> str:
        """Cancel an order."""
        done.append("cancel")
        return "cancelled"

    worker = desk.worker(refund, cancel)
    first = await desk.asked(refund.spec, {"order_id": "W1"})
    await desk.attempt(worker, first)
    await desk.attempt(worker, await desk.asked(cancel.spec, {"order_id": "W1"}))
    desk.tenant += "-other"
    await desk.attempt(worker, await desk.asked(refund.spec, {"order_id": "W1"}))
    assert done == ["refund", "cancel", "refund"]


async def test_a_key_that_no_header_can_hold_is_told_to_the_other_side_as_a_hash(desk: Desk) -> None:
    keys: list[str] = []

    @tool(effect=Effect.IDEMPOTENT, key="name")
    async def greet(name: str, context: ToolContext) -> str:
        """Greet somebody."""
        keys.append(context.idempotency_key)
        return "hello"

    worker = desk.worker(greet)
    for name in ("Jürgen", "x" * 500):
        await desk.attempt(worker, await desk.asked(greet.spec, {"name": name}))
    assert all(key.isascii() and key.startswith("greet:") and len(key) < 60 for key in keys)
    assert len(set(keys)) == 2


async def test_a_skipped_steps_given_result_is_the_effects_result_for_other_runs(desk: Desk) -> None:
    """A person who skips an unknown effect with its result has ruled that it was done."""

    @tool(effect=Effect.ONCE, key="order_id")
    async def refund(order_id: str) -> str:
        """Pay an order back."""
        raise RuntimeError("line cut")

    worker = desk.worker(refund)
    one, two = await desk.asked(refund.spec, {"order_id": "W1"}), await desk.asked(refund.spec, {"order_id": "W1"})
    for request in (one, two):
        with pytest.raises(StepError) as parked:
            await desk.attempt(worker, request)
        assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert f"by step 2 of run {one.run_id}" in str(parked.value)
    await desk.skip(one, "Refund 17 was made by hand.")
    assert (await desk.attempt(worker, two, activity="2")).preview == "Refund 17 was made by hand."
    assert await desk.state(refund, "order_id=W1") == "succeeded"
