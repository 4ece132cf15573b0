"""The `tool` decorator and what a tool may ask for: a context, and dependencies that the worker gives."""

from __future__ import annotations

import functools
import inspect
import sys
import typing
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, ParamSpec, Protocol, TypeVar, get_args, get_origin, overload

from pydantic import ValidationError

from workflows.contracts import conditions, tags
from workflows.contracts.agents import Effect, ToolSpec
from workflows.contracts.errors import DefinitionError
from workflows.contracts.redaction import is_secret_name
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
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself: no ledger, no validation."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<tool {self.spec.name} ({self.spec.effect}) at {place(self.function)}>"

    @property
    def wanted(self) -> tuple[Any, ...]:
        """The types that the worker must provide, those of `check` included."""
        checks = self.check_signature.provided.values() if self.check_signature else ()
        return tuple({*self.signature.provided.values(), *checks})

    def read(self, raw: str) -> dict[str, Any]:
        """The function's keyword arguments from the JSON text that the model wrote.

        Raises:
            ArgumentsError: the text is no JSON or does not fit; it names each field and what is wanted.
        """
        return self.arguments.read(raw)

    def asked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What `check` is called with, beside what the worker gives: the arguments it names, defaults for those left out."""
        if self.check_signature is None:
            return {}
        parameters = inspect.signature(self.function).parameters
        known = {name: parameters[name].default for name in self.signature.visible} | dict(arguments)
        wanted = known if self.check_signature.takes_any else self.check_signature.visible
        return {name: known[name] for name in wanted if known.get(name, inspect.Parameter.empty) is not inspect.Parameter.empty}


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
        invalidates: tags of cached answers that the effect makes old, as in `"orders:{order_id}"`: they are thrown away together
            with the entry that it is done. `{tenant}` and `{user}` are the run's.

    Raises:
        DefinitionError: naming file, line, field and remedy.
    """
    local_names = sys._getframe(1).f_locals
    given: dict[str, Any] = {"effect": effect, "approve": approve, "key": key, "timeout_s": timeout_s, "retries": retries}
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


def wrong_references(spec: ToolSpec) -> list[tuple[str, str, str]]:
    """(field, problem, remedy) for each field that does not fit the tool's arguments or its effect."""
    known = list(spec.parameters.get("properties", {}))
    found: list[tuple[str, str, str]] = []
    if spec.key is not None and spec.key not in known:
        found.append(("key", f"no argument is called `{spec.key}`", closest(spec.key, known)))
    if spec.key is not None and spec.effect is Effect.PURE:
        found.append(("key", "a pure tool has no effect that a key could name", "Give effect: once or idempotent, or leave the key out"))
    if spec.key is not None and is_secret_name(spec.key):
        found.append(("key", "names a secret, which is blacked out before the ledger sees it", "Name an argument that may be written down"))
    found += _wrong_tags(spec, known)
    if spec.retries and spec.effect is Effect.ONCE:
        found.append(("retries", "a tool with effect once is never run again by itself", "Leave retries out, or give effect: idempotent"))
    if isinstance(spec.approve, str):
        try:
            names = conditions.parse(spec.approve).names
        except DefinitionError as error:
            return [*found, ("approve", str(error), "Or write True to ask always")]
        found += [("approve", f"no argument is called `{n}`", closest(n, known)) for n in sorted(names) if n not in known]
    return found


def _wrong_tags(spec: ToolSpec, known: list[str]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if spec.invalidates and spec.effect is Effect.PURE:
        problem = "a pure tool changes nothing that could make answers old"
        found.append(("invalidates", problem, "Give effect: once or idempotent, or leave invalidates out"))
    for tag in spec.invalidates:
        if tags.unreadable(tag):
            found.append(("invalidates", f"the tag {tag!r} cannot be read", "Write it like orders:{order_id}"))
            continue
        for name in tags.places(tag):
            if name not in known and name not in tags.CALLERS:
                found.append(("invalidates", f"no argument is called `{name}`", closest(name, [*known, *tags.CALLERS])))
            elif name in known and name not in spec.parameters.get("required", ()):
                found.append(("invalidates", f"the argument `{name}` may be left out", "Name one that is required"))
            elif is_secret_name(name):
                found.append(("invalidates", f"`{name}` names a secret", "Name an argument that may be written down"))
    return found


def _read_check(made: Tool[..., Any], check: Callable[..., Any], local_names: Mapping[str, Any]) -> Signature:
    if made.spec.effect is not Effect.ONCE:
        raise wrong(made.function, "check", f"is for `once` tools, this one is `{made.spec.effect}`", "Leave it out")
    signature = read_signature(check, ToolContext, local_names)
    for name in signature.visible:
        if name not in made.signature.visible:
            remedy = closest(name, made.signature.visible)
            raise wrong(made.function, "check", f"asks for `{name}`, which the tool does not take", remedy)
    return signature


@dataclass(frozen=True, slots=True)
class Provider:
    """Opens one dependency when the worker starts and closes it when the worker ends."""

    wanted: Any
    """The type that tools ask for."""
    function: Callable[[], AbstractAsyncContextManager[Any]]
    place: str

    def open(self) -> AbstractAsyncContextManager[Any]:
        """A context manager that holds the dependency open."""
        return self.function()


def provide(function: Callable[[], AsyncIterator[T]] | Callable[[], AbstractAsyncContextManager[T]], /) -> Provider:
    """Give tools a dependency: what the function yields is passed to each parameter `Provided[T]`, T being the type it yields.

    Raises:
        DefinitionError: the function takes parameters, or does not say what it yields.
    """
    local_names = sys._getframe(1).f_locals
    try:
        returns = typing.get_type_hints(inspect.unwrap(function), localns=dict(local_names)).get("return")
    except NameError as error:
        raise wrong(function, "return", f"cannot be resolved: {error}", "Import the type at run time") from error
    origin = get_origin(returns)
    if not (isinstance(origin, type) and issubclass(origin, AsyncIterator | AbstractAsyncContextManager)):
        raise wrong(function, "return", "does not say what is provided", "Write an async generator with `-> AsyncIterator[Shop]`")
    if inspect.signature(function).parameters:
        raise wrong(function, "parameters", "a provider takes none", "Read settings from the environment inside it")
    opened: Any = asynccontextmanager(function) if inspect.isasyncgenfunction(function) else function
    return Provider(wanted=get_args(returns)[0], function=opened, place=place(function))


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
