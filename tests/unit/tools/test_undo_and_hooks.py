"""What `undo`, `before` and `after` ask for, and how mistakes in them are told."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from activities.tools.functions import FunctionRunner
from activities.tools.registry import Toolbox
from holdfast import Ask, Deny, Effect, ToolContext, after, before, tool
from workflows.contracts.agents import ApprovalPolicy
from workflows.contracts.errors import DefinitionError
from workflows.contracts.hooks import hooks_of


async def undone(undo: Callable[..., Any], raw: str) -> Any:
    @tool(effect=Effect.ONCE, undo=undo)
    def pay(order_id: str, amount: int, currency: str = "EUR") -> str:
        """Pay."""
        return "paid"

    assert pay.spec.undo
    async with FunctionRunner(Toolbox({"pay": pay})).ready(pay) as ready:
        assert ready.can_undo
        return await ready.undo(ready.read(raw), "receipt 17", ToolContext(idempotency_key="k"))


async def test_an_undo_gets_what_it_names_defaults_and_the_result_included():
    def take_back(order_id: str, currency: str, result: str, context: ToolContext) -> tuple[str, ...]:
        return order_id, currency, result, context.idempotency_key

    assert await undone(take_back, '{"order_id": "W1", "amount": 5}') == ("W1", "EUR", "receipt 17", "k")


async def test_an_undo_may_be_async_and_take_all_or_nothing():
    async def all_of_it(**given: Any) -> dict[str, Any]:
        return given

    def nothing() -> str:
        return "done"

    raw = '{"order_id": "W1", "amount": 5}'
    assert await undone(all_of_it, raw) == {"order_id": "W1", "amount": 5, "currency": "EUR", "result": "receipt 17"}
    assert await undone(nothing, raw) == "done"


def test_a_tool_without_an_undo_has_the_specification_that_it_had_before():
    @tool(effect=Effect.ONCE)
    def pay() -> None:
        """Pay."""

    assert "undo" not in pay.spec.model_dump()


def test_a_hook_stays_the_function_that_it_was_and_may_be_for_several_tools():
    @before("refund")
    @after("*", timeout_s=2)
    def guard(arguments: dict[str, Any], tool: str) -> Deny:
        return Deny(f"{tool} {arguments}")

    assert guard({"a": 1}, "refund") == Deny("refund {'a': 1}")
    assert [(hook.when, hook.tool, hook.timeout_s) for hook in hooks_of(guard)] == [("after", "*", 2), ("before", "refund", 10)]
    assert [hook.is_for("find") for hook in hooks_of(guard)] == [True, False]
    assert hooks_of(hooks_of) == hooks_of(3) == ()


def test_what_a_hook_asks_is_written_with_or_without_a_policy():
    assert Ask("why").reason == "why"
    assert Ask("why").policy == ApprovalPolicy()
    assert Ask("why", policy=ApprovalPolicy(quorum=2)).policy.quorum == 2


def wants_order(order_id: str) -> None: ...
def wants_result(result: str) -> None: ...
def untyped(arguments) -> None: ...  # type: ignore[no-untyped-def]
def fine(arguments: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("decorator", "function", "pattern"),
    [
        (before("refund"), wants_order, r"before: cannot give `order_id`\. Known are: arguments, tool"),
        (before("refund"), wants_result, r"before: cannot give `result`"),
        (after("refund"), wants_order, r"after: cannot give `order_id`\. Known are: arguments, result, tool"),
        (before("refund"), untyped, r"arguments: has no annotation"),
        (before("refund", timeout_s=0), fine, r"timeout_s: must be above 0 and at most 20\. It was given as 0"),
        (before("refund", timeout_s=60), fine, r"timeout_s: must be above 0 and at most 20"),
        (before(fine), fine, r"before: needs the name of a tool\. Write @before\(\"refund\"\)"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_hook_is_refused(decorator: Callable[..., Any], function: Callable[..., Any], pattern: str):
    with pytest.raises(DefinitionError) as caught:
        decorator(function)
    assert re.search(pattern, str(caught.value)), str(caught.value)
    assert re.match(rf"{re.escape(__file__)}:\d+: \w+: ", str(caught.value))
