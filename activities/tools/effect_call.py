"""One tool call under the effect ledger: what may run, what came of it, and what nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pydantic_core
import structlog
from temporalio import activity

from activities.edge import report
from activities.tools import results
from activities.tools.guards import Guards
from activities.tools.ledger import Ledger
from activities.tools.ready import Ready, StillRunningError
from activities.tools.telling import TOLD_CHARS, beat, being_cancelled, said, told
from state.effects import Begun, Ended
from telemetry.spans import tool_span
from workflows.contracts import tags
from workflows.contracts.agents import Effect, ToolSpec
from workflows.contracts.errors import ArgumentsError, FailureClass, StepError, ToolError
from workflows.contracts.hooks import Ask
from workflows.contracts.messages import Message
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact
from workflows.contracts.runs import PREVIEW_CHARS
from workflows.contracts.steps import AskedByHook, ToolOutcome, ToolRunRequest
from workflows.contracts.tools import ToolContext

log = structlog.get_logger("holdfast.tools")

BUSY_RETRY_S = (0.2, 2.0)
CHECK_ATTEMPTS = 5
"""How often a check that itself fails is asked before a person is."""


class EffectCall:
    """Runs the call once, or finds out that it was run."""

    def __init__(self, ledger: Ledger, ready: Ready, guards: Guards, request: ToolRunRequest, spec: ToolSpec) -> None:
        self._ledger = ledger
        self._ready = ready
        self._guards = guards
        self._request = request
        self._spec = spec

    async def run(self) -> ToolOutcome:
        """The step's outcome, from the tool or from what is recorded.

        Raises:
            StepError: the call must wait, be tried again, or be looked at by a person; the class says which.
        """
        begun = await self._ledger.begin(look=self._guards.look_before)
        if begun.outcome == "look":
            stopped = await self._stopped(begun)
            if stopped is not None:
                return stopped
            begun = await self._ledger.begin()
        if begun.outcome in {"done", "no_call"}:
            return await self._judge(begun, {})
        try:
            arguments = self._ready.read(begun.arguments)
        except ArgumentsError as error:
            if begun.outcome == "unknown":
                raise self._unknown(begun) from error
            state = "failed" if begun.outcome == "go" else None
            return await self._end(begun, state, told(str(error)), is_error=True, reason="ArgumentsError")
        key = self._key(arguments) or begun.key
        if key != begun.key:
            begun = await self._ledger.begin(key=key, release_key=begun.key)
        return await self._judge(begun, arguments)

    async def _stopped(self, begun: Begun) -> ToolOutcome | None:
        """What comes of a call that a hook denies, or asks a person about; nothing of it has begun."""
        try:
            arguments = self._ready.read(begun.arguments)
        except ArgumentsError:
            return None  # is told to the model, without a hook, when the call begins
        verdict = await self._guards.before(self._ready.known(arguments), self._context(begun), approved=self._request.approved)
        if isinstance(verdict, Ask):
            ask = AskedByHook(when="before", reason=told(verdict.reason), policy=verdict.policy)
            return ToolOutcome(ok=False, result_hash="", result_bytes=0, ask=ask)
        return None if verdict is None else await self._end(begun, None, f"Not run: {told(verdict.reason)}", is_error=True)

    def _key(self, arguments: dict[str, Any]) -> str | None:
        """The business key as the tool reads it; the ledger has guessed it from the raw arguments, and is nearly always right."""
        value = None if self._spec.key is None else self._ready.argument(arguments, self._spec.key)
        if value is None:
            return None
        text = value if isinstance(value, str) else pydantic_core.to_json(value).decode().strip('"')
        return f"{self._spec.key}={text}" if text else None

    def _tags(self, arguments: dict[str, Any]) -> tuple[str, ...]:
        """The tags that the effect invalidates, filled with the arguments as the tool reads them."""
        values: dict[str, Any] = {"tenant": self._request.tenant, "user": self._request.user}
        for name in self._spec.parameters.get("properties", {}) if self._spec.invalidates else ():
            values[name] = self._ready.argument(arguments, name)
        return tags.filled(self._spec.invalidates, values)

    async def _judge(self, begun: Begun, arguments: dict[str, Any]) -> ToolOutcome:
        if begun.outcome == "go":
            with tool_span(self._spec.name, call_id=self._request.call_id, tool_type=self._spec.kind.value) as span:
                outcome = await self._run(begun, arguments)
                span.record_outcome(ok=outcome.ok)
            return outcome
        if begun.outcome == "done" and begun.message is not None:
            return await self._outcome(begun, Ended(begun.message, begun.blob_id, recorded=True, held=begun.held, ask=begun.ask))
        if begun.outcome == "reused" and begun.message is not None:
            return await self._reuse(begun)
        if begun.outcome == "unknown":
            return await self._reconcile(begun, arguments)
        if begun.outcome == "busy":
            raise self._busy(begun)
        raise StepError(f"Step {self._request.model_step} has no call {self._request.call_id!r}.", failure_class=FailureClass.CODE)

    async def _run(self, begun: Begun, arguments: dict[str, Any]) -> ToolOutcome:
        """Run it and enter what came of it; what nobody can know is entered as unknown and raised."""
        await self._ledger.will_invalidate(begun.key, self._tags(arguments))
        try:
            async with self._ledger.held(begun.key):
                returned = await self._in_time(begun, arguments)
        except ToolError as error:
            return await self._end(begun, "failed", told(str(error)), is_error=True, reason="ToolError")
        except asyncio.CancelledError as error:
            if not being_cancelled():
                return await self._broke_off(begun, arguments, error)
            log.info("tool.cancelled", tool=self._spec.name, effect=self._spec.effect.value)
            await self._ledger.leave_unknown(begun.key, "it was cancelled, or its worker shut down, in mid-run")
            raise
        except Exception as error:
            return await self._broke_off(begun, arguments, error)
        return await self._succeeded(begun, returned)

    async def _in_time(self, begun: Begun, arguments: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self._spec.timeout_s) as limit:
                return await self._ready.call(arguments, self._context(begun))
        except TimeoutError as error:
            if not limit.expired():
                raise
            cancelled = error.__cause__
            if cancelled is not None and isinstance(cancelled.__cause__, StillRunningError):
                raise StillRunningError(f"it took longer than {self._spec.timeout_s:g} s, and cannot be stopped") from error
            raise TimeoutError(f"it took longer than {self._spec.timeout_s:g} s") from error

    async def _succeeded(self, begun: Begun, value: Any) -> ToolOutcome:
        returned = results.as_text(value)
        if not returned.lost:
            return await self._end(begun, "succeeded", returned.text)
        log.error("tool.result_lost", tool=self._spec.name, type=type(value).__name__)
        if self._spec.effect is Effect.PURE:
            return await self._end(begun, None, returned.text, is_error=True)
        # Told as an error it would be called again, as a new step with a new key.
        return await self._end(begun, "succeeded", f"{returned.text} Its work is done: do not call it again for this.")

    async def _broke_off(self, begun: Begun, arguments: dict[str, Any], error: BaseException) -> ToolOutcome:
        """What an unforeseen failure means, by what the tool declares: told to the model, tried again, or unknown."""
        kind = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
        words = said(error)
        attempt = activity.info().attempt
        log.warning("tool.failed", tool=self._spec.name, error_type=kind, attempt=attempt, effect=self._spec.effect.value)
        if self._spec.effect is Effect.ONCE:
            return await self._once_broke_off(begun, arguments, words, error)
        if attempt <= self._spec.retries:
            message = f"{self._spec.name}: {words[:PREVIEW_CHARS]}"
            raise StepError(message, failure_class=FailureClass.TRANSIENT, code="tool_raised") from error
        return await self._end(begun, "failed", f"{self._spec.name} failed: {words}", is_error=True, reason=kind)

    async def _once_broke_off(self, begun: Begun, arguments: dict[str, Any], words: str, error: BaseException) -> ToolOutcome:
        reason = f"it broke off: {words[:PREVIEW_CHARS]}"
        if self._ready.can_check and not isinstance(error, StillRunningError):
            try:
                async with self._ledger.held(begun.key):
                    found = await self._check(begun, arguments)
            except (StepError, asyncio.CancelledError):
                await self._ledger.leave_unknown(begun.key, reason)
                raise
            if found is not None:
                return await self._succeeded(begun, found)
            text = f"{self._spec.name} failed: {words}. Nothing was done: this was checked."
            return await self._end(begun, "failed", text, is_error=True, reason=reason)
        await self._ledger.leave_unknown(begun.key, reason)
        raise self._unknown(begun, reason)

    async def _reconcile(self, begun: Begun, arguments: dict[str, Any]) -> ToolOutcome:
        """Ask the tool's own check what became of an earlier attempt; without one, a person must say."""
        if begun.undoing or not self._ready.can_check:
            raise self._unknown(begun)
        found = await self._check(begun, arguments)
        again = await self._ledger.begin(key=begun.key, checked=begun.attempts)
        if again.outcome == "unknown":  # another attempt has begun and ended since: look at that one anew
            raise self._busy(again)
        if again.outcome == "go" and found is not None:
            return await self._succeeded(again, found)
        return await self._judge(again, arguments)

    async def _check(self, begun: Begun, arguments: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                found = await self._ready.check(arguments, self._context(begun))
        except Exception as error:
            log.warning("effect.check_failed", tool=self._spec.name, error_type=type(error).__name__)
            if activity.info().attempt >= CHECK_ATTEMPTS:
                reason = f"its check failed too, by {type(error).__name__}: {error}"
                raise self._unknown(begun, told(reason)[:PREVIEW_CHARS]) from error
            raise StepError(
                f"The check of {self._spec.name} failed ({type(error).__name__}).",
                failure_class=FailureClass.TRANSIENT,
                code="check_failed",
            ) from error
        log.info("effect.checked", tool=self._spec.name, done=found is not None)
        return found

    async def _reuse(self, begun: Begun) -> ToolOutcome:
        """Give what another call of the same effect got; a model that asked for something else must know that it was not done."""
        assert begun.message is not None  # noqa: S101 - what `reused` means
        text = begun.message.text
        differs = begun.arguments_hash not in {None, results.arguments_digest(begun.arguments)}
        if differs:
            where = "earlier in this run" if begun.holder_run == self._request.run_id else f"by run {begun.holder_run}"
            text = f"Not done now: it was done before, {where}, with other arguments. The result then: {text}"
        ended = await self._ledger.finish(begun.key, None, text, is_error=begun.message.is_error, blob_id=begun.blob_id, note=_note(begun))
        log.info("effect.reused", tool=self._spec.name, arguments_differ=differs)
        return await self._outcome(begun, ended, reused=True)

    async def _end(self, begun: Begun, state: Any, text: str, *, is_error: bool = False, reason: str | None = None) -> ToolOutcome:
        digest = results.arguments_digest(begun.arguments)
        note = _note(begun)
        ended = await self._ledger.finish(begun.key, state, text, is_error=is_error, reason=reason, arguments_hash=digest, note=note)
        return await self._outcome(begun, ended)

    async def _outcome(self, begun: Begun, ended: Ended, *, reused: bool = False) -> ToolOutcome:
        message, ask = await self._reviewed(begun, ended.message) if ended.held else (ended.message, ended.ask)
        return ToolOutcome(
            ok=not message.is_error,
            result_hash=results.digest(message.text),
            result_bytes=await self._ledger.result_bytes(ended),
            preview=one_line(message.text[: 4 * PREVIEW_CHARS]),
            reused=reused,
            ask=ask,
        )

    async def _reviewed(self, begun: Begun, message: Message) -> tuple[Message, AskedByHook | None]:
        """What the model is shown of a result that is recorded, once the hooks have looked at it, and what a person is asked first."""
        try:
            arguments = self._ready.known(self._ready.read(begun.arguments))
        except ArgumentsError as error:
            raise self._guards.broken(f"it cannot be given the arguments: {error}") from error
        verdict = await self._guards.after(arguments, message.text, self._context(begun))
        if verdict is None:
            return await self._ledger.settle("released"), None
        if isinstance(verdict, Ask):
            ask = AskedByHook(when="after", reason=told(verdict.reason), policy=verdict.policy)
            return await self._ledger.settle("asked", ask=ask), ask
        withheld = message.model_copy(update={"text": f"The tool ran, but its result is withheld: {told(verdict.reason)}"})
        return await self._ledger.settle("withheld", message=withheld), None

    def _context(self, begun: Begun) -> ToolContext:
        request = self._request
        return ToolContext(
            run_id=request.run_id,
            step=request.step,
            tenant=request.tenant,
            user=request.user,
            agent=request.agent.name,
            idempotency_key=self._ledger.idempotency_key(begun),
            attempt=activity.info().attempt,
            heartbeat=lambda *details: report(tool=[beat(detail) for detail in details]),
            log=log.bind(tool=request.name),
        )

    def _busy(self, begun: Begun) -> StepError:
        return StepError(
            f"{self._spec.name} is being done for the same key right now, by step {begun.holder_step} of run {begun.holder_run}.",
            failure_class=FailureClass.THROTTLED,
            retry_after_s=min(max(begun.wait_s, BUSY_RETRY_S[0]), BUSY_RETRY_S[1]),
            code="effect_busy",
        )

    def _unknown(self, begun: Begun, reason: str = "") -> StepError:
        mine = begun.holder_run in {"", self._request.run_id}
        whose = "An attempt" if mine else f"An attempt by step {begun.holder_step} of run {begun.holder_run}"
        what, found = (f"to undo {self._spec.name}", "it still stands") if begun.undoing else (f"of {self._spec.name}", "it was done")
        return StepError(
            f"{whose} {what} (key {redact(begun.key)}) ended before its outcome was known: {reason or begun.reason}. "
            f"Find out whether {found}, then redrive: skip with the result if so, retry if not.",
            failure_class=FailureClass.UNKNOWN_OUTCOME,
            code="effect_unknown",
        )


def _note(begun: Begun) -> str:
    """What the model is told of arguments that are not its own."""
    if not begun.edited:
        return ""
    arguments = begun.arguments if len(begun.arguments) <= TOLD_CHARS else f"{begun.arguments[:TOLD_CHARS]} …"
    return f"A person changed the arguments to {arguments}. "
