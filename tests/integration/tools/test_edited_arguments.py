"""Arguments that a person has changed: the call is made with them, and the model is told."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.integration.tools.desk import Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.tools import Tool, ToolContext, tool

Paid = list[tuple[str, Decimal]]


def refund_tool(paid: Paid, **options: Any) -> Tool[..., Any]:
    @tool(**{"effect": Effect.ONCE, **options})
    async def refund(order_id: str, amount: Decimal, context: ToolContext) -> str:
        """Pay back."""
        paid.append((order_id, amount))
        return f"{amount} paid"

    return refund


@pytest.mark.parametrize("effect", list(Effect))
async def test_the_newest_version_of_the_arguments_is_used_and_the_model_is_told(desk: Desk, effect: Effect) -> None:
    paid: Paid = []
    refund = refund_tool(paid, effect=effect)
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1", "amount": 90})
    await desk.edit(request, {"order_id": "W1", "amount": 50})
    await desk.edit(request, {"order_id": "W1", "amount": 40}, version=3)
    assert (await desk.attempt(worker, request)).ok
    assert paid == [("W1", Decimal(40))]
    told = await desk.told(request)
    assert told is not None
    assert told.text == 'A person changed the arguments to {"order_id": "W1", "amount": 40}. 40 paid'
    again = await desk.attempt(worker, request, attempt=2)
    assert (again.ok, len(paid)) == (True, 1)


async def test_arguments_that_do_not_fit_any_more_are_told_with_who_wrote_them(desk: Desk) -> None:
    paid: Paid = []
    refund = refund_tool(paid)
    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1", "amount": 90})
    await desk.edit(request, {"order_id": "W1", "amount": "much"})
    assert not (await desk.attempt(worker, request)).ok
    told = await desk.told(request)
    assert told is not None
    assert told.text.startswith('A person changed the arguments to {"order_id": "W1", "amount": "much"}. the arguments do not fit')
    assert paid == []


async def test_the_business_key_is_that_of_the_edited_arguments_and_others_are_not_told_of_the_edit(desk: Desk) -> None:
    paid: Paid = []
    refund = refund_tool(paid, key="order_id")
    worker, one = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1", "amount": 90})
    await desk.edit(one, {"order_id": "W2", "amount": 90})
    await desk.attempt(worker, one)
    assert await desk.state(refund, "order_id=W2") == "succeeded"
    assert await desk.state(refund, "order_id=W1") is None
    other = await desk.asked(refund.spec, {"order_id": "W2", "amount": 90})
    assert (await desk.attempt(worker, other)).preview == "90 paid"


async def test_an_edit_before_a_redrive_is_used_by_the_next_attempt(desk: Desk) -> None:
    paid: Paid = []

    @tool(effect=Effect.ONCE)
    async def refund(order_id: str, amount: Decimal) -> str:
        """Pay back."""
        paid.append((order_id, amount))
        if amount > 50:
            raise RuntimeError("line cut")
        return "paid"

    worker, request = desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1", "amount": 90})
    with pytest.raises(StepError) as parked:
        await desk.attempt(worker, request)
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    await desk.edit(request, {"order_id": "W1", "amount": 10})
    assert (await desk.attempt(worker, request, again=True)).ok
    assert paid == [("W1", Decimal(90)), ("W1", Decimal(10))]
    row = await desk.row(refund, request=request)
    assert row is not None
    assert row.arguments == '{"order_id": "W1", "amount": 10}', "what undoing it would be given"
