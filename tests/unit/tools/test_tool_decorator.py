"""What `@tool` makes of a function: what the model is told, and how its JSON becomes the function's arguments."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from workflows.contracts.errors import ArgumentsError, DefinitionError, ToolError
from workflows.contracts.tools import Effect, Provided, SilentLog, Tool, ToolContext, provide, tool


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Line(BaseModel):
    product: str
    pieces: int = Field(default=1, ge=1, description="how many")


class Order(BaseModel):
    lines: list[Line]
    note: str | None = None


class Shop:
    """Given by the worker."""


@tool
async def everything(
    text: str,
    number: int,
    amount: Decimal,
    when: datetime,
    day: date,
    kind: Literal["a", "b"],
    size: Size,
    order: Order,
    tags: list[str],
    maybe: int | None = None,
    flag: bool = True,
    limited: Annotated[int, Field(ge=1, le=5, description="one to five")] = 3,
) -> dict[str, Any]:
    """Take everything.

    More about it.

    Args:
        text: what is written,
            over two lines.
        number (int): a whole one.
        limited: not this one, the annotation says it.

    Returns:
        what it was given.
    """
    return {"text": text}


def made(function: Callable[..., Any], **options: Any) -> Tool[..., Any]:
    return tool(**options)(function)


def properties(one: Tool[..., Any]) -> dict[str, Any]:
    return dict(one.spec.parameters["properties"])


def test_the_model_is_told_name_description_and_a_closed_schema():
    spec = everything.spec
    assert spec.name == "everything"
    assert spec.description.startswith("Take everything.\n\nMore about it.")
    assert "over two lines" not in spec.description
    assert spec.parameters["type"] == "object"
    assert spec.parameters["additionalProperties"] is False
    assert spec.parameters["required"] == ["text", "number", "amount", "when", "day", "kind", "size", "order", "tags"]


def test_arguments_are_described_by_the_docstring_or_their_annotation():
    told = properties(everything)
    assert told["text"]["description"] == "what is written, over two lines."
    assert told["number"]["description"] == "a whole one."
    assert told["limited"]["description"] == "one to five"
    assert "description" not in told["amount"]


def test_the_schema_is_valid_and_has_no_titles_that_only_cost_tokens():
    jsonschema.Draft202012Validator.check_schema(everything.spec.parameters)
    assert '"title"' not in json.dumps(everything.spec.parameters)


def test_an_argument_may_be_called_title_or_like_a_method_of_pydantic():
    @tool
    def odd(title: str, json: int, copy: bool, model_config: str, schema: str = "s") -> None:
        """Odd."""

    assert set(properties(odd)) == {"title", "json", "copy", "model_config", "schema"}
    assert odd.read('{"title": "t", "json": 1, "copy": true, "model_config": "m"}') == {
        "title": "t",
        "json": 1,
        "copy": True,
        "model_config": "m",
    }


def test_every_kind_of_argument_is_read():
    raw = {
        "text": "x",
        "number": 1,
        "amount": "0.10",
        "when": "2026-01-02T03:04:05Z",
        "day": "2026-01-02",
        "kind": "a",
        "size": "large",
        "order": {"lines": [{"product": "P1"}, {"product": "P2", "pieces": 2}]},
        "tags": ["t"],
        "maybe": None,
    }
    jsonschema.validate(raw, everything.spec.parameters)
    read = everything.read(json.dumps(raw))
    assert read["amount"] == Decimal("0.10")
    assert str(read["amount"]) == "0.10"
    assert read["when"] == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert read["day"] == date(2026, 1, 2)
    assert read["size"] is Size.LARGE
    assert read["order"] == Order(lines=[Line(product="P1"), Line(product="P2", pieces=2)])
    assert read["maybe"] is None
    assert "flag" not in read, "what was left out is left to the function"


@given(
    st.builds(Order, lines=st.lists(st.builds(Line, product=st.text(), pieces=st.integers(1, 99)), max_size=3), note=st.none() | st.text())
)
def test_what_fits_the_type_fits_the_schema_and_comes_back_equal(order: Order):
    @tool
    def take(order: Order) -> None:
        """Take an order whole."""

    @tool
    def take_with(order: Order, amount: Decimal) -> None:
        """Take an order with an amount."""

    whole, beside = order.model_dump(mode="json"), {"order": order.model_dump(mode="json"), "amount": "1.5"}
    jsonschema.validate(whole, take.spec.parameters)
    jsonschema.validate(beside, take_with.spec.parameters)
    assert take.read(json.dumps(whole)) == {"order": order}
    assert take_with.read(json.dumps(beside)) == {"order": order, "amount": Decimal("1.5")}


@given(
    st.text(max_size=30)
    | st.binary(max_size=10).map(repr)
    | st.sampled_from(["null", "[]", "1", '{"a": NaN}', '{"text": "\\ud800"}', "{" * 3000])
)
def test_any_text_is_arguments_or_an_arguments_error(raw: str):
    try:
        everything.read(raw)
    except ArgumentsError:
        return
    raise AssertionError("no such text can have all that is required")


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9))
def test_amounts_lose_nothing(amount: Decimal):
    @tool
    def pay(amount: Decimal) -> None:
        """Pay."""

    raw = json.dumps({"amount": str(amount)})
    jsonschema.validate(json.loads(raw), pay.spec.parameters)
    assert str(pay.read(raw)["amount"]) == str(amount)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        ('{"order_id": 5}', "order_id: Input should be a valid string (got 5); amount_usd: is missing"),
        ('{"order": "W1", "amount_usd": 1}', "order: no such argument. Did you mean `order_id`?"),
        ('{"order_id": "W1", "amount_usd": "much"}', "amount_usd: Input should be a valid decimal (got 'much')"),
        ("{", "arguments: Invalid JSON"),
        ("[]", "arguments: "),
        ("", "order_id: is missing; amount_usd: is missing"),
        ('{"order_id": "W1", "amount_usd": {"a": 1}}', "amount_usd: "),
    ],
)
def test_arguments_that_do_not_fit_are_told_with_what_is_wanted(raw: str, told: str):
    @tool
    def refund(order_id: str, amount_usd: Decimal, note: str = "") -> None:
        """Pay back."""

    with pytest.raises(ArgumentsError) as caught:
        refund.read(raw)
    assert told in str(caught.value)
    assert "Send one JSON object with the fields order_id (required), amount_usd (required), note" in str(caught.value)


def test_many_problems_are_told_in_short():
    @tool
    def add(numbers: list[int]) -> None:
        """Add."""

    with pytest.raises(ArgumentsError, match=r"and 95 more") as caught:
        add.read(json.dumps({"numbers": ["x" * 1000] * 100}))
    assert len(str(caught.value)) < 1_000


def test_a_validator_that_fails_in_its_own_way_is_told_too():
    class Strange(BaseModel):
        code: str

        @field_validator("code")
        @classmethod
        def _look_up(cls, value: str) -> str:
            return {"a": "b"}[value]

    @tool
    def take(code: Strange, other: int = 0) -> None:
        """Take."""

    with pytest.raises(ArgumentsError, match=r"do not fit: KeyError: 'x'"):
        take.read('{"code": {"code": "x"}}')


def test_one_model_as_the_only_argument_is_taken_whole():
    @tool
    def place_order(order: Order, context: ToolContext, shop: Provided[Shop]) -> None:
        """Place an order."""

    assert set(properties(place_order)) == {"lines", "note"}
    assert place_order.read('{"lines": []}') == {"order": Order(lines=[])}


def test_a_tool_without_arguments_takes_an_empty_object_or_nothing():
    @tool
    def now() -> str:
        """Tell the time."""
        return "now"

    assert now.read("") == now.read("{}") == now.read("  ") == {}
    with pytest.raises(ArgumentsError, match=r"no such argument. None are known.*no fields: \{\}"):
        now.read('{"zone": "UTC"}')


def test_context_and_dependencies_are_not_shown_to_the_model():
    @tool
    def count(product: str, context: ToolContext, shop: Provided[Shop]) -> int:
        """Count."""
        return 1

    assert set(properties(count)) == {"product"}
    assert count.wanted == (Shop,)
    assert count.signature.context == ("context",)


def test_types_of_the_place_where_a_tool_is_defined_are_found():
    class Local(BaseModel):
        a: int

    @tool
    def take(local: Local, more: list[Local]) -> None:
        """Take."""

    assert take.read('{"local": {"a": 1}, "more": []}') == {"local": Local(a=1), "more": []}


async def test_a_tool_called_directly_is_its_function():
    @tool(effect=Effect.ONCE, name="double_it")
    async def double(number: int, context: ToolContext) -> int:
        """Double."""
        context.log.bind(a=1).info("doubled")
        context.heartbeat("half", 1)
        return 2 * number

    assert await double(3, ToolContext()) == 6
    assert double.spec.name == "double_it"
    assert getattr(double, "__name__") == "double"  # noqa: B009 - functools.update_wrapper sets it
    assert repr(double).startswith("<tool double_it (once) at ")
    assert isinstance(ToolContext().log, SilentLog)


def test_the_business_key_is_read_with_the_functions_default():
    @tool(effect=Effect.ONCE, key="order_id")
    def pay(order_id: str = "W1", amount: int = 0) -> None:
        """Pay."""

    @tool(effect=Effect.ONCE, key="note")
    def order(order: Order) -> None:
        """Order."""

    assert pay.arguments.one(pay.read("{}"), "order_id") == "W1"
    assert pay.arguments.one(pay.read('{"order_id": "W2"}'), "order_id") == "W2"
    assert order.arguments.one(order.read('{"lines": [], "note": "n"}'), "note") == "n"
    assert order.arguments.one(order.read('{"lines": []}'), "note") is None


def test_a_check_is_asked_with_the_arguments_it_names_defaults_included():
    async def was_paid(order_id: str, currency: str, context: ToolContext) -> str | None:
        return None

    async def was_done(**arguments: Any) -> str | None:
        return None

    def pay(order_id: str, amount: int, currency: str = "EUR") -> None:
        """Pay."""

    some, all_of_them = made(pay, effect=Effect.ONCE, check=was_paid), made(pay, effect=Effect.ONCE, check=was_done)
    arguments = some.read('{"order_id": "W1", "amount": 5}')
    assert some.asked(arguments) == {"order_id": "W1", "currency": "EUR"}
    assert all_of_them.asked(arguments) == {"order_id": "W1", "amount": 5, "currency": "EUR"}
    assert made(pay).asked(arguments) == {}


def test_a_provider_says_what_it_yields():
    @provide
    async def shop() -> AsyncIterator[Shop]:
        yield Shop()

    assert shop.wanted is Shop
    assert __file__ in shop.place


def test_tool_errors_can_be_raised_by_name():
    assert str(ToolError("no such order")) == "no such order"


def test_a_wrong_tool_is_no_tool():
    with pytest.raises(DefinitionError):
        made(lambda a: a)
