"""Runs function tools: async ones in the event loop, sync ones in threads, so that no tool can stall a worker's heartbeats."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from activities.tools.registry import Toolbox
from workflows.contracts.signatures import Signature
from workflows.contracts.tools import Tool, ToolContext

THREADS = 32


class FunctionRunner:
    """Calls tools with the model's arguments, the context and the worker's dependencies."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="tool")

    async def run(self, tool: Tool[..., Any], arguments: dict[str, Any], context: ToolContext) -> Any:
        """The tool's result, or whatever it raises."""
        given = arguments | await self._hidden(tool.spec.name, tool.signature, context)
        return await self._call(tool.function, given)

    async def check(self, tool: Tool[..., Any], arguments: dict[str, Any], context: ToolContext) -> Any:
        """What the tool's own check says of an earlier attempt: its result, or None when it did nothing."""
        if tool.check is None or tool.check_signature is None:
            return None
        asked = {name: value for name, value in arguments.items() if name in tool.check_signature.visible}
        return await self._call(tool.check, asked | await self._hidden(tool.spec.name, tool.check_signature, context))

    def close(self) -> None:
        """Let running threads end by themselves; a thread cannot be stopped."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _hidden(self, name: str, signature: Signature, context: ToolContext) -> dict[str, Any]:
        hidden: dict[str, Any] = dict.fromkeys(signature.context, context)
        for parameter, wanted in signature.provided.items():
            hidden[parameter] = await self._toolbox.dependencies.get(wanted, name)
        return hidden

    async def _call(self, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(**arguments)
        bound = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        result = await loop.run_in_executor(self._threads, lambda: bound.run(function, **arguments))
        return await result if inspect.isawaitable(result) else result
