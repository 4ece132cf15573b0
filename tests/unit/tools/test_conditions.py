"""The language of `approve`: what it says, that it says nothing else, and that in doubt a person is asked."""

from __future__ import annotations

import ast
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from workflows.contracts import conditions
from workflows.contracts.agents import ToolSpec
from workflows.contracts.errors import DefinitionError

NAMES = ("amount", "country", "order", "missing")
NUMBERS = st.integers(-100, 100)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["50", "1e3", "NaN", "-0", "1_0", "٣"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["paid", "lines", "a"]), inner, max_size=3),
    max_leaves=8,
)
operands = st.recursive(
    st.sampled_from(NAMES)
    | NUMBERS.map(str)
    | st.sampled_from(['"DE"', '"50"', "True", "None", "0.1", "order.paid", "order.lines[0]", "[1, 2]"]),
    lambda inner: st.tuples(inner, st.sampled_from(["a", "lines"])).map(lambda pair: f"({pair[0]}).{pair[1]}"),
    max_leaves=2,
)
comparisons = st.tuples(operands, st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]), operands).map(" ".join)
texts = st.recursive(
    comparisons | operands,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda three: f"({' '.join(three)})") | inner.map("not {}".format)
    ),
    max_leaves=6,
)


def asks(text: str, **arguments: Any) -> bool:
    return conditions.evaluate(text, arguments)


def spec(approve: str | bool, **defaults: Any) -> ToolSpec:
    properties = {name: {"default": value} for name, value in defaults.items()}
    return ToolSpec(name="refund", description="x", parameters={"type": "object", "properties": properties}, approve=approve)


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("amount > 50", {"amount": 50}, False),
        ("amount > 50", {"amount": 50.01}, True),
        ("amount > 50", {"amount": "50.01"}, True),
        ("amount > 50", {"amount": "1e3"}, True),
        ("0 < amount <= 10", {"amount": 10}, True),
        ("0 < amount <= 10", {"amount": 0}, False),
        ("-5 < amount", {"amount": -4}, True),
        ('country != "DE"', {"country": "DE"}, False),
        ('country in ["DE", "FR"]', {"country": "FR"}, True),
        ('country not in ("DE", "FR")', {"country": "FR"}, False),
        ("amount in [1, 2]", {"amount": "2"}, True),
        ('"x" in note', {"note": "a box"}, True),
        ("not order.paid", {"order": {"paid": True}}, False),
        ("order.lines[0].price > 5", {"order": {"lines": [{"price": 6}]}}, True),
        ("order.lines[-1] == 2", {"order": {"lines": [1, 2]}}, True),
        ('order["a key"] == 1', {"order": {"a key": 1}}, True),
        ("note is None", {"note": None}, True),
        ("note is not None", {"note": None}, False),
        ("express is True", {"express": True}, True),
        ("amount > 50 and country == 'DE'", {"amount": 51, "country": "FR"}, False),
        ("amount > 50 or country == 'DE'", {"amount": 1, "country": "DE"}, True),
        ("amount", {"amount": 0}, False),
    ],
)
def test_a_condition_means_what_it_says(text: str, arguments: dict[str, Any], expected: bool):
    assert conditions.evaluate(text, arguments) is expected


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("amount > 50", {}),
        ("amount > 50", {"amount": "a lot"}),
        ("amount > 50", {"amount": "1,000"}),
        ("amount > 50", {"amount": None}),
        ("amount > 50", {"amount": [60]}),
        ("amount > 50", {"amount": float("nan")}),
        ("amount < 50", {"amount": "Infinity"}),
        ("amount < 50", {"amount": 10**5000}),
        ("not amount > 50", {}),
        ("order.paid", {"order": "yes"}),
        ("order.paid", {"order": {}}),
        ("order.lines[3]", {"order": {"lines": []}}),
        ("amount in 5", {"amount": 5}),
        ("5 in note", {"note": "5"}),
        ("note.upper == 1", {"note": "text has methods, which are no fields"}),
    ],
)
def test_what_cannot_be_evaluated_asks(text: str, arguments: dict[str, Any]):
    assert conditions.evaluate(text, arguments) is True


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')",
        "amount.__class__",
        "order._secret",
        "amount + 1 > 2",
        "amount ** amount",
        "[x for x in order]",
        "lambda: 1",
        "f'{amount}'",
        "amount if order else 1",
        "(amount := 1)",
        "order[0:1]",
        "order[amount]",
        "order[True]",
        "{1: 2}",
        "{1, 2}",
        "amount is 5",
        "~amount == 1",
        "+amount == 1",
        "b'x' == note",
        "1j == amount",
        "... == amount",
        "await amount",
        "*order",
        "amount = 5",
        "amount > 50; order",
        "amount >",
        "",
        "   ",
        "amount > 50\x00",
        "(" * 500 + "1" + ")" * 500,
        "amount == 1 or " * 100 + "amount == 2",
    ],
)
def test_nothing_but_comparisons_is_accepted(text: str):
    with pytest.raises(DefinitionError):
        conditions.parse(text)


def test_a_refusal_says_what_is_allowed():
    with pytest.raises(DefinitionError, match=r"uses Call, which is not allowed. Allowed are names"):
        conditions.parse("len(order) > 3")


def test_the_names_that_a_condition_looks_at_are_known():
    assert conditions.parse('order.lines[0].price > 5 and country in ["DE"]').names == {"order", "country"}


def test_fields_of_models_are_read_and_nothing_else_of_them():
    class Order(BaseModel):
        paid: bool
        price: Decimal

    order = Order(paid=False, price=Decimal("0.1"))
    assert asks("order.price == 0.1 and not order.paid", order=order)
    assert asks("order.model_dump == 1 and order.paid", order=order), "a method cannot be evaluated, so it asks"


@given(texts, st.dictionaries(st.sampled_from(NAMES[:3]), json_values))
def test_no_arguments_can_make_a_condition_raise(text: str, arguments: dict[str, Any]):
    try:
        condition = conditions.parse(text)
    except DefinitionError:
        return
    assert isinstance(conditions.evaluate(condition, arguments), bool)


@given(st.text(max_size=40) | st.text(alphabet="amount.[]()><=! 0145'\"orandnotis", max_size=40))
def test_any_text_is_a_condition_or_a_definition_error(text: str):
    try:
        condition = conditions.parse(text)
    except DefinitionError:
        return
    assert isinstance(condition.tree, ast.expr)


@given(st.decimals(-1000, 1000, places=2), st.decimals(-1000, 1000, places=2))
def test_amounts_are_compared_as_they_are_written(left: Decimal, right: Decimal):
    for amount in (left, str(left), float(left)):
        assert asks(f"amount > {right}", amount=amount) is (left > right)
        assert asks(f"amount == {right}", amount=amount) is (left == right)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["<", ">", "==", "!=", "<=", ">="]), NUMBERS), min_size=1, max_size=4),
    NUMBERS,
    NUMBERS,
    NUMBERS,
)
def test_whole_numbers_compare_as_in_python(parts: list[tuple[str, str, int]], a: int, b: int, c: int):
    text = " and ".join(f"not {name} {sign} {number}" for name, sign, number in parts)
    assert asks(text, a=a, b=b, c=c) is eval(text, {"a": a, "b": b, "c": c})  # noqa: S307 - our own text


def test_a_tool_without_a_condition_asks_always_or_never():
    assert conditions.approval_needed(spec(True), {})
    assert not conditions.approval_needed(spec(False), {})


def test_the_schemas_defaults_stand_for_what_the_model_left_out():
    assert not conditions.approval_needed(spec("amount > 50", amount=10), {})
    assert conditions.approval_needed(spec("amount > 50", amount=10), {"amount": 51})
    assert conditions.approval_needed(spec("amount > 50", amount=100), {})


def test_a_stored_condition_that_cannot_be_read_asks():
    assert conditions.approval_needed(spec("amount >"), {"amount": 1})
