"""The `tool` decorator and what a tool may ask for: a context, and dependencies that the worker gives."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, ParamSpec, Protocol, TypeVar, overload

from pydantic import ValidationError

from workflows.contracts.agents import Effect, ToolSpec
from workflows.contracts.providing import Provider, provide
from workflows.contracts.references import wrong_references
from workflows.contracts.signatures import (
    Arguments,
    ProvidedMarker,
    Signature,
    closest,
    place,
    read_arguments,
    read_docstring,
    read_signature,
    wrong,
)

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

RESULT = "result"
"""What an `undo` calls the text that the tool gave."""

Provided = Annotated[T, ProvidedMarker()]
"""`shop: Provided[Shop]`: the worker gives what the `@provide` function for Shop yields; the model never sees the parameter."""


class ToolLog(Protocol):
    """The part of a structlog logger that tools use: an event name in dotted words, and fields."""

    def bind(self, **fields: Any) -> ToolLog: ...  # noqa: D102
    def debug(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def info(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def warning(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def error(self, event: str, **fields: Any) -> Any: ...  # noqa: D102
    def exception(self, event: str, **fields: Any) -> Any: ...  # noqa: D102


class SilentLog:
    """A log that keeps nothing; what a `ToolContext` made by hand in a unit test has."""

    def bind(self, **fields: Any) -> SilentLog:
        """Itself."""
        return self

    def debug(self, event: str, **fields: Any) -> None:
        """Nothing."""

    info = warning = error = exception = debug


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """What a tool may know of the call it serves. `ToolContext()` is one for unit tests."""

    run_id: str = "run"
    step: int = 1
    tenant: str = "default"
    user: str | None = None
    agent: str = "agent"
    idempotency_key: str = "run:1"
    """The same for every attempt of this effect: hand it to the other side, so that it can tell a repetition."""
    attempt: int = 1
    """1 on the first try of this step."""
    heartbeat: Callable[..., None] = lambda *details: None
    """Says that the tool is alive, with details for the Temporal UI. Beats are sent in the background too: a tool need not."""
    log: ToolLog = field(default_factory=SilentLog)


class Tool(Generic[P, R]):
    """A tool function with its specification. Calling it calls the function, with all its parameters, as in a unit test."""

    def __init__(self, function: Callable[P, R], spec: ToolSpec, signature: Signature, arguments: Arguments) -> None:
        self.function = function
        self.spec = spec
        self.signature = signature
        self.arguments = arguments
        self.check: Callable[..., Any] | None = None
        """Asked when nobody knows whether an earlier attempt of a `once` tool did its work: the result if it did, else None."""
        self.check_signature: Signature | None = None
        self.undo: Callable[..., Any] | None = None
        """Undoes an effect that was done: given those of its arguments that it names, and `result` when it asks for it."""
        self.undo_signature: Signature | None = None
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself: no ledger, no validation."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.spec.name} ({self.spec.effect}) at {place(self.function)}>"

    @property
    def wanted(self) -> tuple[Any, ...]:
        """The types that the worker must provide, those of `check` and `undo` included."""
        signatures = (self.signature, self.check_signature, self.undo_signature)
        return tuple({wanted for signature in signatures if signature for wanted in signature.provided.values()})

    def read(self, raw: str) -> dict[str, Any]:
        """The function's keyword arguments from the JSON text that the model wrote.

        Raises:
            ArgumentsError: the text is no JSON or does not fit; it names each field and what is wanted.
        """
        return self.arguments.read(raw)

    def all_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with the function's defaults for those that were left out."""
        parameters = inspect.signature(self.function).parameters
        known = {name: parameters[name].default for name in self.signature.visible} | dict(arguments)
        return {name: value for name, value in known.items() if value is not inspect.Parameter.empty}

    def asked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What `check` is called with, beside what the worker gives: the arguments it names, defaults for those left out."""
        return self._named(self.check_signature, self.all_arguments(arguments))

    def undone_with(self, arguments: Mapping[str, Any], result: str) -> dict[str, Any]:
        """What `undo` is called with, beside what the worker gives: the arguments it names, and the result when it asks for it."""
        known = self.all_arguments(arguments)
        return self._named(self.undo_signature, known if RESULT in self.signature.visible else known | {RESULT: result})

    @staticmethod
    def _named(signature: Signature | None, known: dict[str, Any]) -> dict[str, Any]:
        if signature is None:
            return {}
        return known if signature.takes_any else {name: known[name] for name in signature.visible if name in known}


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *,
    effect: Effect = Effect.PURE,
    approve: str | bool = False,
    key: str | None = None,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float = 60,
    retries: int = 0,
    check: Callable[..., Any] | None = None,
    undo: Callable[..., Any] | None = None,
    invalidates: Sequence[str] = (),
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect = Effect.PURE,
    approve: str | bool = False,
    key: str | None = None,
    name: str | None = None,
    description: str | None = None,
    timeout_s: float = 60,
    retries: int = 0,
    check: Callable[..., Any] | None = None,
    undo: Callable[..., Any] | None = None,
    invalidates: Sequence[str] = (),
) -> Any:
    """Make a function callable by agents; its name, docstring and annotated parameters are what the model is told.

    Args:
        effect: what running it twice would do. A tool that says nothing is taken as `pure`: one that changes the
            world must say so.
        approve: True, or a condition over the arguments, under which a person must say yes first: `"amount_usd > 50"`.
        key: the argument that names the effect in the business: two calls with one value do it once, in whichever run.
        name: what the model calls it, if not the function's name.
        description: what the model is told, if not the docstring.
        timeout_s: seconds after which a call is given up.
        retries: how often a raising pure or idempotent tool is run again before its failure is told to the model.
        check: for `once` tools: called with the arguments it names when an earlier attempt's outcome is unknown; gives the
            result if that attempt did its work, None if it did not.
        undo: for tools that are not pure: takes an effect back, when a person ends a run so. Called with the arguments it names, and
            with `result`, the text that the tool gave, when it asks for it; raises `ToolError` when nothing could be undone.
        invalidates: tags of cached answers that the effect makes old, as in `"orders:{order_id}"`: they are thrown away together
            with the entry that it is done. `{tenant}` and `{user}` are the run's.

    Raises:
        DefinitionError: naming file, line, field and remedy.
    """
    local_names = sys._getframe(1).f_locals
    given: dict[str, Any] = {"effect": effect, "approve": approve, "key": key, "timeout_s": timeout_s, "retries": retries}
    given["undo"] = undo is not None
    given["invalidates"] = (invalidates,) if isinstance(invalidates, str) else tuple(invalidates)

    def decorate(target: Callable[..., Any]) -> Tool[..., Any]:
        signature = read_signature(target, ToolContext, local_names)
        if signature.takes_any:
            raise wrong(target, "**kwargs", "cannot be told to a model", "Declare each argument by name")
        told, described = read_docstring(target)
        if not (description or told):
            raise wrong(target, "docstring", "is missing", "Say in one sentence what the tool does: the model chooses by it")
        arguments = read_arguments(target, signature, described)
        spec = _spec(target, name=name or target.__name__, description=description or told, parameters=arguments.schema(), **given)
        made = Tool(target, spec, signature, arguments)
        if check is not None:
            made.check, made.check_signature = check, _read_check(made, check, local_names)
        if undo is not None:
            made.undo, made.undo_signature = undo, _read_undo(made, undo, local_names)
        return made

    return decorate if function is None else decorate(function)


def _spec(function: Callable[..., Any], **fields: Any) -> ToolSpec:
    try:
        spec = ToolSpec(**fields)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise wrong(function, where, problem["msg"], f"It was given as {problem['input']!r:.80}") from error
    for where, problem_text, remedy in wrong_references(spec):
        raise wrong(function, where, problem_text, remedy)
    return spec


def _read_check(made: Tool[..., Any], check: Callable[..., Any], local_names: Mapping[str, Any]) -> Signature:
    if made.spec.effect is not Effect.ONCE:
        raise wrong(made.function, "check", f"is for `once` tools, this one is `{made.spec.effect}`", "Leave it out")
    return _read_beside(made, "check", check, made.signature.visible, local_names)


def _read_undo(made: Tool[..., Any], undo: Callable[..., Any], local_names: Mapping[str, Any]) -> Signature:
    signature = _read_beside(made, "undo", undo, [*made.signature.visible, RESULT], local_names)
    if RESULT in signature.visible and RESULT in made.signature.visible:
        problem = "asks for `result`, which is an argument of the tool, and what the tool gave"
        raise wrong(made.function, "undo", problem, "Call the tool's argument otherwise")
    return signature


def _read_beside(
    made: Tool[..., Any], field_name: str, function: Callable[..., Any], known: Collection[str], local_names: Mapping[str, Any]
) -> Signature:
    """The signature of a function that is called beside the tool, with some of its arguments."""
    signature = read_signature(function, ToolContext, local_names)
    for name in signature.visible:
        if name not in known:
            raise wrong(made.function, field_name, f"asks for `{name}`, which the tool does not take", closest(name, known))
    return signature


__all__ = [
    "Effect",
    "Provided",
    "Provider",
    "SilentLog",
    "Tool",
    "ToolContext",
    "ToolLog",
    "provide",
    "tool",
    "wrong_references",
]
