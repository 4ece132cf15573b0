"""The `provide` decorator: what a worker gives to the tools, checks, undos and hooks that ask for it."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_origin

from workflows.contracts.signatures import place, wrong

T = TypeVar("T")


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
