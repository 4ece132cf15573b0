"""Runs function tools: async ones in the event loop, sync ones in threads, so that no tool can stall a worker's heartbeats."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import structlog

from activities.tools.ready import StillRunningError
from activities.tools.registry import Toolbox
from workflows.contracts.signatures import Signature
from workflows.contracts.tools import RESULT, Tool, ToolContext

log = structlog.get_logger("holdfast.tools")


class FunctionRunner:
    """Makes function tools ready with the worker's dependencies."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox

    @contextlib.asynccontextmanager
    async def ready(self, tool: Tool[..., Any]) -> AsyncIterator[ReadyFunction]:
        """The tool with all that it wants, for the length of the block.

        Raises:
            StepError: a dependency is missing or could not be opened.
        """
        async with self._toolbox.dependencies.lend(tool.wanted, tool.spec.name) as given:
            yield ReadyFunction(tool, given)


class ReadyFunction:
    """A decorated function with its dependencies."""

    def __init__(self, tool: Tool[..., Any], given: Mapping[Any, Any]) -> None:
        self._tool = tool
        self._given = given

    @property
    def can_check(self) -> bool:
        """Whether the decorator was given a `check`."""
        return self._tool.check is not None

    def read(self, raw: str) -> dict[str, Any]:
        """The function's keyword arguments, validated."""
        return self._tool.read(raw)

    def argument(self, arguments: dict[str, Any], name: str) -> Any:
        """One of the arguments as the tool reads it."""
        return self._tool.arguments.one(arguments, name)

    def known(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with the function's defaults for those that were left out."""
        return self._tool.all_arguments(arguments)

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> Any:
        """Call the function."""
        return await call_function(self._tool.function, arguments | self._hidden(self._tool.signature, context), self._tool.spec.name)

    async def check(self, arguments: dict[str, Any], context: ToolContext) -> Any:
        """Call the tool's check with the arguments that it names; one that answers by yes or no is understood too."""
        check, signature = self._tool.check, self._tool.check_signature
        if check is None or signature is None:
            return None
        found = await call_function(check, self._tool.asked(arguments) | self._hidden(signature, context), self._tool.spec.name)
        return None if found is False else found

    @property
    def can_undo(self) -> bool:
        """Whether the decorator was given an `undo`."""
        return self._tool.undo is not None

    @property
    def undo_reads_result(self) -> bool:
        """Whether the undo asks for what the tool gave."""
        signature = self._tool.undo_signature
        return signature is not None and (signature.takes_any or RESULT in signature.visible)

    async def undo(self, arguments: dict[str, Any], result: str, context: ToolContext) -> Any:
        """Call the tool's undo with the arguments that it names, and with what the tool gave when it asks for that."""
        undo, signature = self._tool.undo, self._tool.undo_signature
        if undo is None or signature is None:
            raise LookupError(f"{self._tool.spec.name} has no undo")
        given = self._tool.undone_with(arguments, result)
        return await call_function(undo, given | self._hidden(signature, context), f"{self._tool.spec.name}.undo")

    def _hidden(self, signature: Signature, context: ToolContext) -> dict[str, Any]:
        return dict.fromkeys(signature.context, context) | {name: self._given[wanted] for name, wanted in signature.provided.items()}


async def call_function(function: Callable[..., Any], arguments: dict[str, Any], name: str) -> Any:
    """Call an async function in the event loop, any other in a thread of its own.

    Raises:
        StillRunningError: it was given up, and its thread goes on.
    """
    try:
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        result = await _in_thread(function, arguments, name)
        return await result if inspect.isawaitable(result) else result
    except SystemExit as error:  # would end the worker, and after the retry the next one
        raise RuntimeError(f"called sys.exit({error.code!r})") from error


async def _in_thread(function: Callable[..., Any], arguments: dict[str, Any], name: str) -> Any:
    """Run a sync function in a thread of its own: one that hangs can neither be stopped nor take the place of another.

    Raises:
        StillRunningError: the time is over, and the thread goes on.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def tell(settle: Callable[[Any], None], value: Any) -> None:
        def settle_once() -> None:
            if not outcome.done():
                settle(value)

        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            loop.call_soon_threadsafe(settle_once)

    def work() -> None:
        try:
            result = context.run(function, **arguments)
        except StopIteration as error:  # no future takes one
            tell(outcome.set_exception, RuntimeError(f"raised {error!r}"))
        except BaseException as error:
            tell(outcome.set_exception, error)
        else:
            tell(outcome.set_result, result)

    threading.Thread(target=work, name=f"tool-{name}", daemon=True).start()
    try:
        return await outcome
    except asyncio.CancelledError as cancelled:
        if not outcome.cancelled():
            raise
        log.warning("tool.abandoned", tool=name)
        raise cancelled from StillRunningError()
