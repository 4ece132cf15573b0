"""The condition language of `approve`: comparisons over a tool call's arguments, and nothing else.

    amount_usd > 50 and country != "DE"
    not order.paid or order.lines[0].product in ["A1", "B2"]

Numbers are compared as exact decimals, so `0.1` in a condition equals `0.1` in the arguments, whether they hold a number or a
numeral as text. What cannot be evaluated (a missing argument, text against a number) counts as true: approval is needed.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from pydantic import BaseModel

from workflows.contracts.agents import ToolSpec
from workflows.contracts.errors import DefinitionError

CONDITION_LIMIT_CHARS: Final = 1_000
CONDITION_LIMIT_NODES: Final = 200

_ORDERINGS: Final[Mapping[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ALLOWED: Final = (
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.UnaryOp,
    ast.Not,
    ast.USub,
    ast.Compare,
    *_ORDERINGS,
    ast.In,
    ast.NotIn,
    ast.Is,
    ast.IsNot,
    ast.Constant,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.List,
    ast.Tuple,
    ast.Load,
)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition that has been read and found safe; `names` are the arguments it looks at."""

    text: str
    tree: ast.expr
    names: frozenset[str]


class _CannotEvaluateError(Exception):
    """The arguments do not have what the condition asks for."""


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        DefinitionError: the text is not a condition; the message says where and what is allowed.
    """
    if len(text) > CONDITION_LIMIT_CHARS:
        raise DefinitionError(f"the condition has {len(text)} characters; at most {CONDITION_LIMIT_CHARS} are allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        nodes = list(ast.walk(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DefinitionError(f"the condition `{text}` cannot be read: {error}. Write it like `amount_usd > 50`") from error
    if len(nodes) > CONDITION_LIMIT_NODES:
        raise DefinitionError(f"the condition has {len(nodes)} parts; at most {CONDITION_LIMIT_NODES} are allowed")
    for node in nodes:
        _refuse_unsafe(node, text)
    return Condition(text=text, tree=tree, names=frozenset(node.id for node in nodes if isinstance(node, ast.Name)))


def evaluate(condition: Condition | str, arguments: Mapping[str, Any]) -> bool:
    """True when the condition holds over `arguments`, or when it cannot be evaluated: in doubt a person is asked.

    Raises:
        DefinitionError: `condition` is text that cannot be read.
    """
    parsed = parse(condition) if isinstance(condition, str) else condition
    try:
        return bool(_value(parsed.tree, arguments))
    except (_CannotEvaluateError, TypeError, ValueError, ArithmeticError, RecursionError):
        return True


def approval_needed(spec: ToolSpec, arguments: Mapping[str, Any]) -> bool:
    """Whether this call must wait for a person, by the tool's `approve` over the call's JSON arguments and schema's defaults."""
    if isinstance(spec.approve, bool):
        return spec.approve
    try:
        return evaluate(spec.approve, {**schema_defaults(spec.parameters), **arguments})
    except DefinitionError:
        return True


def schema_defaults(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The default values that a tool's JSON schema gives to arguments that were left out."""
    properties = parameters.get("properties", {})
    return {name: field["default"] for name, field in properties.items() if isinstance(field, Mapping) and "default" in field}


def _refuse_unsafe(node: ast.AST, text: str) -> None:
    """Everything that is not on the list is refused: calls, arithmetic, comprehensions and all that Python may yet invent."""
    if not isinstance(node, _ALLOWED):
        what = type(node).__name__
        raise DefinitionError(
            f"the condition `{text}` uses {what}, which is not allowed. Allowed are names, fields (a.b, a[0]), numbers, texts, "
            "lists, comparisons, in, and, or, not"
        )
    if isinstance(node, ast.Constant) and not isinstance(node.value, str | int | float | None):
        raise DefinitionError(f"the condition `{text}` uses the literal {node.value!r}; allowed are numbers, texts, True, False, None")
    if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
        raise DefinitionError(f"the condition `{text}` reads the private field {node.attr}")
    if isinstance(node, ast.Subscript) and not _is_plain_index(node.slice):
        raise DefinitionError(f"the condition `{text}` has an index that is neither a whole number nor a text")
    if isinstance(node, ast.Compare) and any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
        _refuse_identity_of_values(node, text)


def _is_plain_index(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
        return isinstance(node, ast.Constant) and type(node.value) is int
    return isinstance(node, ast.Constant) and type(node.value) in {int, str}


def _refuse_identity_of_values(node: ast.Compare, text: str) -> None:
    for op, right in zip(node.ops, node.comparators, strict=True):
        singleton = isinstance(right, ast.Constant) and (right.value is None or isinstance(right.value, bool))
        if isinstance(op, ast.Is | ast.IsNot) and not singleton:
            raise DefinitionError(f"the condition `{text}` compares with `is`; `is` is for None, True and False: write `==`")


def _value(node: ast.expr, arguments: Mapping[str, Any]) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(value, arguments) for value in values)
        case ast.BoolOp(values=values):
            return any(_value(value, arguments) for value in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, arguments)
        case ast.UnaryOp(operand=operand):
            return -_number(_value(operand, arguments))
        case ast.Compare():
            return _compare(node, arguments)
        case ast.Constant(value=value):
            return _exact(value)
        case ast.Name(id=name):
            return _field(arguments, name)
        case ast.Attribute(value=owner, attr=name):
            return _field(_value(owner, arguments), name)
        case ast.Subscript(value=owner, slice=index):
            return _field(_value(owner, arguments), ast.literal_eval(index))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, arguments) for item in items]
    raise _CannotEvaluateError(type(node).__name__)


def _compare(node: ast.Compare, arguments: Mapping[str, Any]) -> bool:
    left = _value(node.left, arguments)
    for op, comparator in zip(node.ops, node.comparators, strict=True):
        right = _value(comparator, arguments)
        if not _holds(op, left, right):
            return False
        left = right
    return True


def _holds(op: ast.cmpop, left: Any, right: Any) -> bool:
    if isinstance(op, ast.Is | ast.IsNot):
        return (left is right) == isinstance(op, ast.Is)
    if isinstance(op, ast.In | ast.NotIn):
        return _contains(right, left) == isinstance(op, ast.In)
    one, other = _alike(left, right)
    return bool(_ORDERINGS[type(op)](one, other))


def _contains(container: Any, item: Any) -> bool:
    if isinstance(container, str):
        if not isinstance(item, str):
            raise _CannotEvaluateError("in")
        return item in container
    if isinstance(container, Mapping):
        return item in container
    if isinstance(container, Sequence | set | frozenset):
        return any(operator.eq(*_alike(item, _exact(each))) for each in container)
    raise _CannotEvaluateError("in")


def _alike(left: Any, right: Any) -> tuple[Any, Any]:
    """A number beside a numeral is compared as a number: models send amounts as text, and the tool's schema accepts both."""
    if isinstance(left, Decimal) and isinstance(right, str):
        return left, _number(right)
    if isinstance(right, Decimal) and isinstance(left, str):
        return _number(left), right
    return left, right


def _number(value: Any) -> Decimal:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, str):
        number = Decimal(value)  # raises an ArithmeticError for what is no numeral
        if number.is_finite():
            return number
    raise _CannotEvaluateError("a number")


def _exact(value: Any) -> Any:
    """Numbers as decimals of what is written, not of what binary floating point makes of it; NaN compares with nothing."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal) and value.is_nan():
        raise _CannotEvaluateError("not a number")
    return value


def _field(owner: Any, name: str | int) -> Any:
    """An item of a mapping or list, or a declared field of a model; never any other attribute."""
    if isinstance(owner, Mapping) and name in owner:
        return _exact(owner[name])
    if isinstance(owner, BaseModel) and name in type(owner).model_fields:
        return _exact(getattr(owner, str(name)))
    if isinstance(owner, list | tuple) and isinstance(name, int) and -len(owner) <= name < len(owner):
        return _exact(owner[name])
    raise _CannotEvaluateError(str(name))
