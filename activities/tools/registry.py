"""The tools that a worker has, by name, and the dependencies it gives them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from workflows.contracts.errors import DefinitionError, FailureClass, StepError
from workflows.contracts.tools import Provider, Tool


class Toolbox:
    """Function tools by name. A new set can be taken over while calls are running."""

    def __init__(self, tools: Mapping[str, Tool[..., Any]] | None = None, dependencies: Dependencies | None = None) -> None:
        self._tools = dict(tools or {})
        self.dependencies = dependencies or Dependencies(())

    def take(self, tools: Mapping[str, Tool[..., Any]], providers: Iterable[Provider]) -> None:
        """Serve these tools from now on; dependencies that are open stay open."""
        self.dependencies.add(providers)
        self._tools = dict(tools)

    def function(self, name: str) -> Tool[..., Any]:
        """The tool's function.

        Raises:
            StepError: this worker does not have it; another one may, so the call is tried again.
        """
        found = self._tools.get(name)
        if found is None:
            raise StepError(
                f"This worker has no tool {name!r}: start it with the --agents folder that defines it, or wait for one that has it.",
                failure_class=FailureClass.TRANSIENT,
                code="no_such_tool_here",
            )
        return found


class Dependencies:
    """What `@provide` functions give, opened when first asked for and closed with the worker."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers: dict[Any, Provider] = {}
        self._open: dict[Any, Any] = {}
        self._exits = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()
        self.add(providers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None) -> None:
        await self._exits.aclose()

    def add(self, providers: Iterable[Provider]) -> None:
        """Know these providers too; one that replaces another is used from the next start on."""
        self._providers |= {provider.wanted: provider for provider in providers}

    async def get(self, wanted: Any, tool: str) -> Any:
        """The dependency of a type.

        Raises:
            DefinitionError: nobody provides it.
            Exception: whatever its `@provide` function raised.
        """
        if wanted in self._open:
            return self._open[wanted]
        provider = self._providers.get(wanted)
        if provider is None:
            name = getattr(wanted, "__name__", str(wanted))
            raise DefinitionError(f"Tool {tool!r} wants a {name}, which nobody provides: write an @provide function that yields one.")
        async with self._lock:
            if wanted not in self._open:
                self._open[wanted] = await self._exits.enter_async_context(provider.open())
        return self._open[wanted]
