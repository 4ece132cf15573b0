"""Every mistake in a decorated tool is refused where it stands: file, line, name, field, remedy."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field

from workflows.contracts.errors import DefinitionError
from workflows.contracts.tools import Effect, Provided, ToolContext, provide, tool


class Shop:
    """No JSON."""


def plain(order_id: str, amount: int = 0) -> str:
    """Do it."""
    return order_id


def no_annotation(order_id, amount: int) -> str:  # type: ignore[no-untyped-def]
    """Do it."""


def no_docstring(order_id: str) -> None: ...


def empty_docstring(order_id: str) -> None:
    """

    Args:
        order_id: the order.
    """


def unknown_type(order: Missing) -> None:  # type: ignore[name-defined] # noqa: F821
    """Do it."""


def broken_annotation(order: "list[") -> None:  # type: ignore[syntax] # noqa: F722
    """Do it."""


def missing_attribute(order: re.NoSuchThing) -> None:  # type: ignore[name-defined]
    """Do it."""


def no_json(shop: Shop) -> None:
    """Do it."""


def positional(order_id: str, /) -> None:
    """Do it."""


def many(*orders: str) -> None:
    """Do it."""


def anything(**orders: str) -> None:
    """Do it."""


def field_default(pieces: int = Field(default=5, ge=1)) -> None:
    """Do it."""


def generates(order_id: str) -> Iterator[str]:
    """Do it."""
    yield order_id


async def generates_async(order_id: str) -> AsyncIterator[str]:
    """Do it."""
    yield order_id


def secret_key(api_key: str) -> None:
    """Do it."""


def constrained(pieces: Annotated[int, Field(ge=1)]) -> None:
    """Do it."""


class Shelf:
    """Methods are no tools."""

    def count(self, product: str) -> int:
        """Count."""
        return 1


def check_other(amnt: int) -> None: ...
def undo_with(order_id: str, result: str, context: ToolContext) -> None: ...
def undo_other(order: str) -> None: ...


def has_result(result: str) -> None:
    """Do it."""


def check_untyped(order_id) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("function", "options", "pattern"),
    [
        (no_annotation, {}, r"order_id: has no annotation\. Write its type, as in `order_id: str`"),
        (no_docstring, {}, r"docstring: is missing\. Say in one sentence what the tool does"),
        (empty_docstring, {}, r"docstring: is missing"),
        (unknown_type, {}, r"annotations: cannot be resolved: name 'Missing' is not defined\. Import the type at run time"),
        (broken_annotation, {}, r"annotations: cannot be resolved: "),
        (missing_attribute, {}, r"annotations: cannot be resolved: .*NoSuchThing"),
        (no_json, {}, r"arguments: have no JSON schema: .*Shop.*mark what the worker gives as Provided"),
        (positional, {}, r"order_id: is not given by name\. Declare each argument as an ordinary parameter"),
        (many, {}, r"orders: is not given by name"),
        (anything, {}, r"\*\*kwargs: cannot be told to a model\. Declare each argument by name"),
        (field_default, {}, r"pieces: has a Field as its default\. Write `pieces: Annotated\["),
        (generates, {}, r"return: yields its results one by one\. Return one result"),
        (generates_async, {}, r"return: yields its results one by one"),
        (Shelf.count, {}, r"self: has no annotation"),
        (plain, {"key": "order"}, r"key: no argument is called `order`\. Did you mean `order_id`\?"),
        (plain, {"effect": Effect.ONCE, "key": "zzz"}, r"key: no argument is called `zzz`\. Known are: amount, order_id"),
        (plain, {"key": "order_id"}, r"key: a pure tool has no effect that a key could name\. Give effect"),
        (secret_key, {"effect": Effect.ONCE, "key": "api_key"}, r"key: names a secret, which is blacked out"),
        (plain, {"approve": "amount >"}, r"approve: the condition `amount >` cannot be read: .*Write it like `amount_usd > 50`"),
        (plain, {"approve": "amnt > 5"}, r"approve: no argument is called `amnt`\. Did you mean `amount`\?"),
        (plain, {"approve": "len(order_id) > 5"}, r"approve: .*uses Call, which is not allowed"),
        (plain, {"approve": 5}, r"approve.*It was given as 5"),
        (plain, {"name": "do it"}, r"name: String should match pattern.*It was given as 'do it'"),
        (plain, {"timeout_s": 0}, r"timeout_s: Input should be greater than 0\. It was given as 0"),
        (plain, {"timeout_s": 1e9}, r"timeout_s: .*less than or equal to 86400"),
        (plain, {"retries": -1}, r"retries: .*greater than or equal to 0"),
        (plain, {"retries": 2, "effect": Effect.ONCE}, r"retries: a tool with effect once is never run again by itself"),
        (plain, {"effect": "twice"}, r"effect: Input should be 'pure', 'idempotent' or 'once'\. It was given as 'twice'"),
        (plain, {"check": plain}, r"check: is for `once` tools, this one is `pure`\. Leave it out"),
        (
            plain,
            {"effect": Effect.ONCE, "check": check_other},
            r"check: asks for `amnt`, which the tool does not take\. Did you mean `amount`",
        ),
        (plain, {"undo": undo_with}, r"undo: a pure tool has no effect that could be undone\. Give effect: once or idempotent"),
        (
            plain,
            {"effect": Effect.ONCE, "undo": undo_other},
            r"undo: asks for `order`, which the tool does not take\. Did you mean `order_id`",
        ),
        (has_result, {"effect": Effect.ONCE, "undo": undo_with}, r"undo: asks for `order_id`, which the tool does not take"),
        (has_result, {"effect": Effect.ONCE, "undo": has_result}, r"undo: asks for `result`, which is an argument of the tool, and what"),
        (plain, {"effect": Effect.ONCE, "undo": check_untyped}, r"check_untyped: order_id: has no annotation"),
        (plain, {"effect": Effect.ONCE, "check": check_untyped}, r"check_untyped: order_id: has no annotation"),
    ],
)
def test_a_wrong_tool_is_refused(function: Callable[..., Any], options: dict[str, Any], pattern: str):
    with pytest.raises(DefinitionError) as caught:
        tool(**options)(function)
    message = str(caught.value)
    assert re.search(pattern, message), message
    assert re.match(rf"{re.escape(__file__)}:\d+: \w+: ", message), message


def test_the_line_is_that_of_the_function():
    with pytest.raises(DefinitionError) as caught:
        tool(no_docstring)
    assert f"{__file__}:{no_docstring.__code__.co_firstlineno}: no_docstring: docstring" in str(caught.value)


def needs_parameters(dsn: str) -> AsyncIterator[Shop]: ...  # type: ignore[empty-body]
def says_nothing():  # type: ignore[no-untyped-def]
    yield Shop()


async def gives_at_once() -> Shop:
    return Shop()


async def unresolved() -> AsyncIterator[Missing]:  # type: ignore[name-defined] # noqa: F821
    yield Shop()


@pytest.mark.parametrize(
    ("function", "pattern"),
    [
        (needs_parameters, r"parameters: a provider takes none\. Read settings from the environment inside it"),
        (says_nothing, r"return: does not say what is provided\. Write an async generator with `-> AsyncIterator\[Shop\]`"),
        (gives_at_once, r"return: does not say what is provided"),
        (unresolved, r"return: cannot be resolved: .*Missing.*Import the type at run time"),
    ],
)
def test_a_wrong_provider_is_refused(function: Any, pattern: str):
    with pytest.raises(DefinitionError, match=pattern):
        provide(function)


def test_what_is_right_is_let_pass():
    for options in (
        {},
        {"approve": True},
        {"approve": "amount > 5"},
        {"retries": 3},
        {"effect": Effect.ONCE, "key": "order_id", "check": plain},
        {"effect": Effect.IDEMPOTENT, "undo": undo_with},
    ):
        assert tool(**options)(plain).spec.name == "plain"  # type: ignore[call-overload]
    assert tool(constrained).spec.parameters["properties"] == {"pieces": {"minimum": 1, "type": "integer"}}

    @tool
    def with_context(order_id: str, context: ToolContext, shop: Provided[Shop]) -> None:
        """Do it."""

    assert set(with_context.spec.parameters["properties"]) == {"order_id"}
