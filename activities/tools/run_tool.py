"""The activity that runs one tool call under the effect ledger."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any, Protocol

import structlog
from temporalio import activity

from activities.edge import report, until_available
from activities.tools import results
from activities.tools.functions import FunctionRunner
from activities.tools.http import HttpRunner
from activities.tools.registry import Toolbox
from state import effects
from state.effects import Begun
from state.pool import Database
from telemetry.spans import tool_span
from workflows.contracts import names
from workflows.contracts.agents import AgentDefinition, Effect, ToolKind, ToolSpec
from workflows.contracts.errors import ArgumentsError, FailureClass, StepError, ToolError, UnavailableError
from workflows.contracts.messages import Message
from workflows.contracts.redaction import redact
from workflows.contracts.runs import PREVIEW_CHARS, ToolOutcome, ToolRunRequest
from workflows.contracts.tools import ToolContext

log = structlog.get_logger("holdfast.tools")

WORKER = f"{socket.gethostname()}:{os.getpid()}"
BUSY_RETRY_S = 1.0
TOLD_CHARS = 2_000


class Definitions(Protocol):
    """Where pinned definitions come from."""

    async def by_hash(self, definition_hash: str) -> AgentDefinition:
        """A definition as it was pinned."""
        ...


class ToolActivities:
    """`run_tool`."""

    def __init__(self, database: Database, definitions: Definitions, toolbox: Toolbox, http: HttpRunner) -> None:
        self._database = database
        self._definitions = definitions
        self._toolbox = toolbox
        self._functions = FunctionRunner(toolbox)
        self._http = http

    def close(self) -> None:
        """Take no more work."""
        self._functions.close()

    @activity.defn(name=names.RUN_TOOL)
    async def run_tool(self, request: ToolRunRequest) -> ToolOutcome:
        """Run one tool call under the effect ledger."""
        spec = await self._spec(request)
        if spec.kind is ToolKind.FUNCTION:
            self._toolbox.function(spec.name)  # before the ledger: a worker without the tool must not enter a start
        begun = await self._begin(request, spec)
        if begun.outcome == "done" and begun.message is not None:
            return _outcome(begun.message)
        if begun.outcome == "reused" and begun.message is not None:
            message = await effects.finish(
                self._database, request, spec, begun.key, state="succeeded", text=begun.message.text, is_error=begun.message.is_error
            )
            return _outcome(message, reused=True)
        with tool_span(spec.name, call_id=request.call_id, tool_type=spec.kind.value) as span:
            outcome = _outcome(await self._run(request, spec, begun))
            span.record_outcome(ok=outcome.ok)
        return outcome

    async def _spec(self, request: ToolRunRequest) -> ToolSpec:
        definition = await self._definitions.by_hash(request.agent.definition_hash)
        found = next((spec for spec in definition.tools if spec.name == request.name), None)
        if found is None:
            raise StepError(f"The pinned definition of {definition.name} has no tool {request.name!r}.", failure_class=FailureClass.CODE)
        return found

    async def _begin(self, request: ToolRunRequest, spec: ToolSpec) -> Begun:
        begun = await effects.begin(self._database, request, spec, again=request.ruled_again, worker=WORKER)
        if begun.outcome == "busy":
            raise StepError(
                f"Another run is doing {spec.name} for the same key right now.",
                failure_class=FailureClass.THROTTLED,
                retry_after_s=BUSY_RETRY_S,
                code="effect_busy",
            )
        if begun.outcome == "no_call":
            raise StepError(f"Step {request.model_step} has no call {request.call_id!r}.", failure_class=FailureClass.CODE)
        if begun.outcome == "unknown":
            return await self._reconcile(request, spec, begun)
        return begun

    async def _reconcile(self, request: ToolRunRequest, spec: ToolSpec, begun: Begun) -> Begun:
        """Ask the tool's own check what became of an earlier attempt; without one, a person must say."""
        tool = self._toolbox.function(spec.name) if spec.kind is ToolKind.FUNCTION else None
        if tool is None or tool.check is None:
            raise StepError(
                f"An earlier attempt of {spec.name} (key {redact(begun.key)}) ended before its outcome was known; it is not run again "
                "silently. Find out whether it was done, then redrive: skip with the result if it was, retry if it was not.",
                failure_class=FailureClass.UNKNOWN_OUTCOME,
                code="effect_unknown",
            )
        arguments = tool.read(begun.arguments)
        result = await self._functions.check(tool, arguments, _context(request, begun))
        log.info("effect.checked", tool=spec.name, done=result is not None)
        if result is None:
            return await effects.begin(self._database, request, spec, again=True, worker=WORKER)
        message = await effects.finish(
            self._database, request, spec, begun.key, state="succeeded", text=results.as_text(result).text, is_error=False
        )
        return Begun("done", begun.arguments, begun.key, message, None, begun.attempts)

    async def _run(self, request: ToolRunRequest, spec: ToolSpec, begun: Begun) -> Message:
        """Run it and enter what came of it; what nobody can know is entered as unknown and raised."""
        try:
            async with _lease(self._database, request, spec, begun.key):
                returned = results.as_text(await self._attempt(request, spec, begun))
            state, text, is_error, reason = "succeeded", returned.text, returned.wrong, None
        except (ToolError, ArgumentsError) as error:
            state, text, is_error, reason = "failed", _told(str(error)), True, type(error).__name__
        except (StepError, UnavailableError):
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._leave_open(request, spec, begun.key, "it was cancelled in mid-run"))
            raise
        except Exception as error:
            state, text, is_error, reason = await self._raised(request, spec, begun, error)
        return await until_available(
            lambda: effects.finish(self._database, request, spec, begun.key, state=state, text=text, is_error=is_error, reason=reason)
        )

    async def _attempt(self, request: ToolRunRequest, spec: ToolSpec, begun: Begun) -> Any:
        async with asyncio.timeout(spec.timeout_s):
            if spec.kind is ToolKind.HTTP:
                return await self._http.run(spec, json.loads(begun.arguments or "{}"), begun.key)
            tool = self._toolbox.function(spec.name)
            return await self._functions.run(tool, tool.read(begun.arguments), _context(request, begun))

    async def _raised(self, request: ToolRunRequest, spec: ToolSpec, begun: Begun, error: Exception) -> tuple[str, str, bool, str]:
        """What an unforeseen failure means, by what the tool declares: told to the model, tried again, or unknown."""
        said = f"it took longer than {spec.timeout_s:g} s" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        attempt = activity.info().attempt
        log.warning("tool.failed", tool=spec.name, error_type=type(error).__name__, attempt=attempt, effect=spec.effect.value)
        if spec.effect is Effect.ONCE:
            await self._leave_open(request, spec, begun.key, said)
            raise StepError(
                f"{spec.name} broke off ({_told(said)[:PREVIEW_CHARS]}); whether it did its work is not known.",
                failure_class=FailureClass.TRANSIENT if self._can_check(spec) else FailureClass.UNKNOWN_OUTCOME,
                code="effect_unknown",
            ) from error
        if attempt <= spec.retries:
            raise StepError(
                f"{spec.name}: {_told(said)[:PREVIEW_CHARS]}", failure_class=FailureClass.TRANSIENT, code="tool_raised"
            ) from error
        return "failed", _told(f"{spec.name} failed: {said}"), True, type(error).__name__

    def _can_check(self, spec: ToolSpec) -> bool:
        return spec.kind is ToolKind.FUNCTION and self._toolbox.function(spec.name).check is not None

    async def _leave_open(self, request: ToolRunRequest, spec: ToolSpec, key: str, reason: str) -> None:
        """Enter a `once` effect as unknown. With the database away the row says `started`, which the next attempt reads the same."""
        if spec.effect is not Effect.ONCE:
            return
        try:
            await effects.unknown(self._database, request, spec, key, reason)
        except UnavailableError:
            log.warning("effect.unknown_postponed", tool=spec.name)


@contextlib.asynccontextmanager
async def _lease(database: Database, request: ToolRunRequest, spec: ToolSpec, key: str) -> AsyncIterator[None]:
    """Keep other runs that share the key waiting for as long as the tool runs."""
    if spec.effect is Effect.PURE or spec.key is None:
        yield
        return
    renewing = asyncio.create_task(_renew(database, request, spec, key))
    try:
        yield
    finally:
        renewing.cancel()


async def _renew(database: Database, request: ToolRunRequest, spec: ToolSpec, key: str) -> None:
    while True:
        await asyncio.sleep(effects.RENEW_EVERY_S)
        with contextlib.suppress(UnavailableError):
            await effects.renew(database, request, spec, key)


def _context(request: ToolRunRequest, begun: Begun) -> ToolContext:
    return ToolContext(
        run_id=request.run_id,
        step=request.step,
        tenant=request.tenant,
        user=request.user,
        agent=request.agent.name,
        idempotency_key=begun.key,
        attempt=activity.info().attempt,
        heartbeat=lambda *details: report(tool=list(details)),
        log=log.bind(tool=request.name),
    )


def _outcome(message: Message, *, reused: bool = False) -> ToolOutcome:
    flat = " ".join(message.text[: 4 * PREVIEW_CHARS].split())
    return ToolOutcome(
        ok=not message.is_error,
        result_hash=results.digest(message.text),
        result_bytes=len(message.text.encode(errors="replace")),
        preview=flat if len(flat) <= PREVIEW_CHARS else flat[: PREVIEW_CHARS - 1] + "…",
        reused=reused,
    )


def _told(text: str) -> str:
    """What a model, a log or a history may be told of a failure."""
    return redact(text)[:TOLD_CHARS]
