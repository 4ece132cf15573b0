"""What a `check` is asked, and how its answer is understood."""

from __future__ import annotations

from typing import Any

import pytest

from activities.tools.functions import FunctionRunner
from activities.tools.registry import Toolbox
from workflows.contracts.tools import Effect, ToolContext, tool


@pytest.mark.parametrize(
    ("answer", "understood"), [(None, None), (False, None), (True, True), ("", ""), (0, 0), ([], []), ("paid", "paid")]
)
@pytest.mark.parametrize("sync", [True, False])
async def test_only_none_and_no_mean_that_nothing_was_done(answer: Any, understood: Any, sync: bool):
    def was_paid(order_id: str) -> Any:
        return answer

    async def was_paid_async(order_id: str) -> Any:
        return answer

    @tool(effect=Effect.ONCE, check=was_paid if sync else was_paid_async)
    def pay(order_id: str) -> str:
        """Pay."""
        return "paid"

    async with FunctionRunner(Toolbox({"pay": pay})).ready(pay) as ready:
        assert ready.can_check
        found = await ready.check(ready.read('{"order_id": "W1"}'), ToolContext())
    assert found == understood
    assert type(found) is type(understood)


async def test_a_check_is_asked_with_the_defaults_of_what_the_model_left_out():
    asked: dict[str, Any] = {}

    async def was_paid(order_id: str, currency: str, context: ToolContext) -> None:
        asked.update(order_id=order_id, currency=currency, key=context.idempotency_key)

    @tool(effect=Effect.ONCE, check=was_paid)
    def pay(order_id: str, amount: int, currency: str = "EUR") -> str:
        """Pay."""
        return "paid"

    async with FunctionRunner(Toolbox({"pay": pay})).ready(pay) as ready:
        assert await ready.check(ready.read('{"order_id": "W1", "amount": 5}'), ToolContext(idempotency_key="k")) is None
    assert asked == {"order_id": "W1", "currency": "EUR", "key": "k"}
