"""The hooks of one tool call. A guard that is broken lets nothing through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import structlog
from temporalio import activity

from activities.tools.functions import call_function
from activities.tools.registry import Toolbox
from activities.tools.telling import being_cancelled, said
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.hooks import Ask, Deny, Hook
from workflows.contracts.runs import PREVIEW_CHARS
from workflows.contracts.tools import ToolContext

log = structlog.get_logger("holdfast.tools")

HOOK_ATTEMPTS = 3
"""How often a hook that fails is asked before a person is: it may only have met a database that was away."""


class Guards:
    """The hooks that look at one tool's calls, with what they need."""

    def __init__(self, tool: str, hooks: Sequence[Hook] = (), given: Mapping[Any, Any] | None = None) -> None:
        self._tool = tool
        self._before = [hook for hook in hooks if hook.when == "before"]
        self._after = [hook for hook in hooks if hook.when == "after"]
        self._given = given or {}

    @property
    def look_before(self) -> bool:
        """Whether a hook must be asked before the call."""
        return bool(self._before)

    @property
    def look_after(self) -> bool:
        """Whether a hook must see the result before the model does."""
        return bool(self._after)

    async def before(self, arguments: Mapping[str, Any], context: ToolContext, *, approved: bool) -> Deny | Ask | None:
        """What the hooks say of a call; with `approved` they may not ask again, and may still deny.

        Raises:
            StepError: a hook is broken.
        """
        verdict = await self._judge(self._before, {"arguments": arguments, "tool": self._tool}, context)
        return None if approved and isinstance(verdict, Ask) else verdict

    async def after(self, arguments: Mapping[str, Any], result: str, context: ToolContext) -> Deny | Ask | None:
        """What the hooks say of a result.

        Raises:
            StepError: a hook is broken.
        """
        return await self._judge(self._after, {"arguments": arguments, "result": result, "tool": self._tool}, context)

    def broken(self, why: str, error: BaseException | None = None) -> StepError:
        """A hook that cannot say: tried again a few times, then a person must mend it."""
        again = error is not None and activity.info().attempt < HOOK_ATTEMPTS
        return StepError(
            f"A hook that guards {self._tool} is broken: {why[:PREVIEW_CHARS]}. Mend it, then redrive: retry asks it again.",
            failure_class=FailureClass.TRANSIENT if again else FailureClass.TOOL,
            code="hook_failed",
        )

    async def _judge(self, hooks: Sequence[Hook], given: Mapping[str, Any], context: ToolContext) -> Deny | Ask | None:
        """The first no counts; the wishes to ask of all of them become one question, under the first one's policy."""
        asks: list[Ask] = []
        for hook in hooks:
            verdict = await self._ask(hook, given, context)
            if isinstance(verdict, Deny):
                log.info("hook.denied", tool=self._tool, when=hook.when, hook=hook.function.__name__)
                return verdict
            if verdict is not None:
                asks.append(verdict)
        return Ask("; ".join(ask.reason for ask in asks if ask.reason), asks[0].policy) if asks else None

    async def _ask(self, hook: Hook, given: Mapping[str, Any], context: ToolContext) -> Deny | Ask | None:
        known = {name: dict(value) if isinstance(value, Mapping) else value for name, value in given.items()}
        wanted = known if hook.signature.takes_any else {name: known[name] for name in hook.signature.visible}
        hidden = dict.fromkeys(hook.signature.context, context)
        provided = {name: self._given[kind] for name, kind in hook.signature.provided.items()}
        try:
            async with asyncio.timeout(hook.timeout_s):
                verdict = await call_function(hook.function, wanted | hidden | provided, hook.function.__name__)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and being_cancelled():
                raise
            log.error("hook.failed", tool=self._tool, hook=hook.function.__name__, error_type=type(error).__name__)
            raise self.broken(f"{hook.function.__name__} raised {said(error)}", error) from error
        if verdict is None or isinstance(verdict, Deny | Ask):
            return verdict
        raise self.broken(f"{hook.function.__name__} gave a {type(verdict).__name__}, which is neither None, Deny nor Ask")


@contextlib.asynccontextmanager
async def guards(toolbox: Toolbox, tool: str) -> AsyncIterator[Guards]:
    """The hooks of a tool with all that they want, for the length of the block.

    Raises:
        StepError: a dependency is missing or could not be opened.
    """
    hooks = toolbox.hooks(tool)
    wanted = {kind for hook in hooks for kind in hook.signature.provided.values()}
    async with toolbox.dependencies.lend(wanted, f"{tool}'s hook") as given:
        yield Guards(tool, hooks, given)
