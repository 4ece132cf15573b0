"""What `@provide` functions give to tools: opened when first asked for, closed when nobody uses it any more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self

import structlog

from workflows.contracts.errors import FailureClass, StepError, ToolError, UsageError
from workflows.contracts.tools import Provider

log = structlog.get_logger("holdfast.tools")


class Dependencies:
    """One of each type, shared by all calls. Opened and closed in a task of its own, as some libraries insist."""

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._providers: dict[Any, Provider] = {}
        self._open: dict[Any, _Opened] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.take(providers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None) -> None:
        for opened in self._open.values():
            self._closing.add(opened.end())
        self._open.clear()
        await asyncio.gather(*self._closing)

    def take(self, providers: Iterable[Provider]) -> None:
        """Give these from now on; what is given no longer is closed as soon as no call uses it."""
        self._providers = {provider.wanted: provider for provider in providers}
        for wanted, opened in list(self._open.items()):
            if self._providers.get(wanted) is not opened.provider:
                self._retire(wanted)

    @contextlib.asynccontextmanager
    async def lend(self, wanted: Iterable[Any], tool: str) -> AsyncIterator[dict[Any, Any]]:
        """The dependencies of these types for the length of the block.

        Raises:
            StepError: one is not provided, or could not be opened; nothing of the tool has run.
        """
        async with contextlib.AsyncExitStack() as lent:
            given: dict[Any, Any] = {}
            for one in wanted:
                opened = self._opened(one, tool)
                lent.enter_context(opened.used())
                given[one] = await self._value(opened, one, tool)
            yield given

    def _opened(self, wanted: Any, tool: str) -> _Opened:
        opened = self._open.get(wanted)
        if opened is not None:
            return opened
        provider = self._providers.get(wanted)
        if provider is None:
            raise StepError(
                f"Tool {tool} wants a {_name(wanted)}, which no @provide function of this worker's folders gives: write one, "
                "or start a worker that has it.",
                failure_class=FailureClass.TRANSIENT,
                code="not_provided",
            )
        opened = self._open[wanted] = _Opened(provider)
        return opened

    async def _value(self, opened: _Opened, wanted: Any, tool: str) -> Any:
        try:
            return await asyncio.shield(opened.value)
        except Exception as error:
            if self._open.get(wanted) is opened:
                self._retire(wanted)
            said = f"{_name(wanted)}, which tool {tool} needs, could not be opened: {type(error).__name__}: {error}"
            log.error("dependency.failed", tool=tool, wanted=_name(wanted), error_type=type(error).__name__)
            wrong_setting = isinstance(error, UsageError | ToolError)
            raise StepError(
                f"{said} ({opened.provider.place}).",
                failure_class=FailureClass.CALLER if wrong_setting else FailureClass.TRANSIENT,
                code="dependency_failed",
            ) from error

    def _retire(self, wanted: Any) -> None:
        task = self._open.pop(wanted).end()
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Opened:
    """One dependency, held open by a task until it is retired and unused."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.value: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._users = 0
        self._retired = False
        self._unused = asyncio.Event()
        self._task = asyncio.create_task(self._hold())

    @contextlib.contextmanager
    def used(self) -> Any:
        """Keep it open for the length of the block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._settle()

    def end(self) -> asyncio.Task[None]:
        """Close it when nobody uses it any more; the task ends then."""
        self._retired = True
        self._settle()
        return self._task

    def _settle(self) -> None:
        if self._retired and self._users == 0:
            self._unused.set()

    async def _hold(self) -> None:
        try:
            async with self.provider.open() as value:
                self.value.set_result(value)
                await self._unused.wait()
        except Exception as error:
            if not self.value.done():
                self.value.set_exception(error)
                self.value.exception()  # seen, even when the call that asked was cancelled
                return
            log.warning("dependency.close_failed", wanted=_name(self.provider.wanted), error_type=type(error).__name__)


def _name(wanted: Any) -> str:
    return getattr(wanted, "__name__", str(wanted))
