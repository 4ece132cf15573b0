"""One undo under the effect ledger: what may be undone, what came of it, and what nobody knows."""

from __future__ import annotations

import asyncio
import uuid
from typing import Never

import structlog
from temporalio import activity

from activities.edge import report, until_available
from activities.identity import WORKER
from activities.tools import results
from activities.tools.effect_call import BUSY_RETRY_S
from activities.tools.functions import ReadyFunction
from activities.tools.ledger import Hold, business_key
from activities.tools.telling import beat, being_cancelled, said, told
from state import blobs, undoing
from state.effects import Claim, State
from state.pool import Database
from state.undoing import SUFFIX, Undoing
from telemetry.spans import tool_span
from workflows.contracts.agents import Effect, ToolSpec
from workflows.contracts.errors import ArgumentsError, FailureClass, StepError, ToolError
from workflows.contracts.people import UndoRequest
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact
from workflows.contracts.runs import PREVIEW_CHARS
from workflows.contracts.steps import ToolOutcome, ToolRunRequest
from workflows.contracts.tools import ToolContext

log = structlog.get_logger("holdfast.tools")


class UndoLedger(Hold):
    """The ledger as one attempt of one undo uses it."""

    def __init__(self, database: Database, request: UndoRequest, spec: ToolSpec) -> None:
        self._effect = request.effect
        name = f"{request.effect.tool}{SUFFIX}"
        asked = ToolRunRequest(
            run_id=request.run_id,
            step=request.effect.step,
            model_step=0,
            call_id=request.effect.call_id,
            name=name,
            agent=request.agent,
            tenant=request.tenant,
            user=request.user,
            rulings=request.rulings,
        )
        spec = spec.model_copy(update={"name": name, "effect": Effect.ONCE})
        super().__init__(database, Claim(asked, spec, uuid.uuid4().hex, WORKER))

    async def begin(self) -> Undoing:
        """See `undoing.begin`."""
        return await until_available(lambda: undoing.begin(self._database, self._claim, self._effect))

    async def finish(self, state: State, text: str) -> None:
        """Enter the outcome, however long the database is away within reason, and even when the activity is cancelled now.

        Raises:
            StepError: another attempt has taken the undo over.
        """
        writing = asyncio.ensure_future(until_available(lambda: undoing.finish(self._database, self._claim, self._effect, state, text)))
        try:
            recorded = await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing
            raise
        if not recorded:
            log.error("effect.overtaken", tool=self._claim.spec.name, state=state)
            message = f"Another attempt of {self._claim.spec.name} has begun since."
            raise StepError(message, failure_class=FailureClass.TRANSIENT, code="effect_overtaken")

    async def result(self, found: Undoing) -> str:
        """What the effect gave, whole."""
        if found.blob_id is not None:
            return (await blobs.get(self._database, found.blob_id)).decode(errors="replace")
        return found.message.text if found.message else ""


class UndoCall:
    """Undoes an effect once, or finds out that it was undone."""

    def __init__(self, ledger: UndoLedger, ready: ReadyFunction, request: UndoRequest) -> None:
        self._ledger = ledger
        self._ready = ready
        self._request = request
        self._effect = request.effect
        self._name = f"{request.effect.tool}{SUFFIX}"

    async def run(self) -> ToolOutcome:
        """What came of it, or that there is nothing to undo any more.

        Raises:
            StepError: it must wait, or be looked at by a person; the class says which.
        """
        found = await self._ledger.begin()
        match found.outcome:
            case "go":
                with tool_span(self._name, call_id=self._effect.call_id, tool_type="function") as span:
                    outcome = await self._undo(found)
                    span.record_outcome(ok=outcome.ok)
                return outcome
            case "done":
                return _outcome(found.message.text if found.message else "undone")
            case "gone":
                log.info("effect.not_undone", tool=self._effect.tool, state=found.reason)
                return _outcome("Nothing to undo: the effect was undone, or done anew by another run, in the meantime.")
            case "busy":
                raise StepError(
                    f"{self._effect.tool} is being undone right now, by run {found.holder_run}.",
                    failure_class=FailureClass.THROTTLED,
                    retry_after_s=min(max(found.wait_s, BUSY_RETRY_S[0]), BUSY_RETRY_S[1]),
                    code="effect_busy",
                )
            case _:
                raise self._unknown(found.reason)

    async def _undo(self, found: Undoing) -> ToolOutcome:
        try:
            arguments = self._ready.read(found.arguments)
            result = await self._ledger.result(found) if self._ready.undo_reads_result else ""
        except (ArgumentsError, blobs.BlobMissingError) as error:
            await self._stands(told(str(error)), error)
        try:
            async with self._ledger.held(self._effect.key), asyncio.timeout(self._effect.timeout_s) as limit:
                returned = await self._ready.undo(arguments, result, self._context(found))
        except ToolError as error:
            await self._stands(told(str(error)), error)
        except asyncio.CancelledError as error:
            await self._ledger.leave_unknown(self._effect.key, "it was cancelled, or its worker shut down, in mid-run")
            if being_cancelled():
                raise
            raise self._unknown("it broke off") from error
        except Exception as error:
            late = isinstance(error, TimeoutError) and limit.expired()
            reason = f"it took longer than {self._effect.timeout_s:g} s" if late else f"it broke off: {said(error)[:PREVIEW_CHARS]}"
            log.warning("tool.failed", tool=self._name, error_type=type(error).__name__, effect="once")
            await self._ledger.leave_unknown(self._effect.key, reason)
            raise self._unknown(reason) from error
        text = "undone" if returned is None else results.as_text(returned).text
        await self._ledger.finish("succeeded", text)
        log.info("effect.undone", tool=self._effect.tool)
        return _outcome(text)

    async def _stands(self, why: str, error: Exception) -> Never:
        """The undo says for itself that it could do nothing."""
        await self._ledger.finish("failed", why)
        raise StepError(
            f"{self._effect.tool} (key {redact(self._effect.key)}) could not be undone: {why[:PREVIEW_CHARS]}. It stands. "
            "Undo it by hand and redrive with skip, or mend the cause and retry.",
            failure_class=FailureClass.TOOL,
            code="undo_failed",
        ) from error

    def _unknown(self, reason: str) -> StepError:
        return StepError(
            f"An attempt to undo {self._effect.tool} (key {redact(self._effect.key)}) ended before its outcome was known: {reason}. "
            "Find out whether it was undone, then redrive: skip if it was, retry if it was not.",
            failure_class=FailureClass.UNKNOWN_OUTCOME,
            code="effect_unknown",
        )

    def _context(self, found: Undoing) -> ToolContext:
        request, effect = self._request, self._effect
        key = business_key(request.tenant, self._name, effect.key)
        return ToolContext(
            run_id=request.run_id,
            step=effect.step,
            tenant=request.tenant,
            user=request.user,
            agent=request.agent.name,
            idempotency_key=key if found.generation == 1 else f"{key}:{found.generation}",
            attempt=activity.info().attempt,
            heartbeat=lambda *details: report(tool=[beat(detail) for detail in details]),
            log=log.bind(tool=self._name),
        )


def _outcome(text: str) -> ToolOutcome:
    shown = one_line(redact(text[: 4 * PREVIEW_CHARS]))
    return ToolOutcome(ok=True, result_hash=results.digest(text), result_bytes=len(text.encode(errors="replace")), preview=shown)
