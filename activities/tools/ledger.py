"""One attempt's view of the effect ledger: waits out a database that is away, keeps its lease, never loses a result."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import structlog

from activities.edge import until_available
from activities.identity import WORKER
from state import effects, held_results
from state.effects import Begun, Claim, Ended, State
from state.held_results import HookSays
from state.pool import Database
from workflows.contracts.agents import Effect, ToolSpec
from workflows.contracts.errors import FailureClass, StepError, UnavailableError
from workflows.contracts.messages import Message
from workflows.contracts.steps import AskedByHook, ToolRunRequest

log = structlog.get_logger("holdfast.tools")

IDEMPOTENCY_KEY_CHARS = 200


class Hold:
    """An attempt's hold on a row of the ledger."""

    def __init__(self, database: Database, claim: Claim) -> None:
        self._database = database
        self._claim = claim
        self._pure = claim.spec.effect is Effect.PURE

    async def will_invalidate(self, key: str, tags: tuple[str, ...]) -> None:
        """Enter which cached answers the effect makes old, before it is done: whatever dies then, they go when its end is entered."""
        if not tags or self._pure:
            return
        try:
            await until_available(lambda: effects.will_invalidate(self._database, self._claim, key, tags))
        except BaseException:
            with contextlib.suppress(UnavailableError):
                await asyncio.shield(effects.give_back(self._database, self._claim, key))
            raise

    @contextlib.asynccontextmanager
    async def held(self, key: str) -> AsyncIterator[None]:
        """Say, for as long as the tool runs, that its holder lives; a tool that ends before the first renewal costs nothing."""
        if self._pure:
            yield
            return
        renewing: list[asyncio.Task[None]] = []
        timer = asyncio.get_running_loop().call_later(effects.RENEW_EVERY_S, lambda: renewing.append(asyncio.create_task(self._renew(key))))
        try:
            yield
        finally:
            timer.cancel()
            for task in renewing:
                task.cancel()

    async def leave_unknown(self, key: str, reason: str) -> None:
        """Enter a `once` effect as unknown. With the database away the row says `started`, which the next attempt reads the same."""
        if self._claim.spec.effect is not Effect.ONCE:
            return
        try:
            await asyncio.shield(effects.leave_unknown(self._database, self._claim, key, reason))
        except UnavailableError:
            log.warning("effect.unknown_postponed", tool=self._claim.spec.name)

    async def _renew(self, key: str) -> None:
        while True:
            try:
                if not await effects.renew(self._database, self._claim, key):
                    log.error("effect.lease_lost", tool=self._claim.spec.name)
                    return
            except UnavailableError:
                log.warning("effect.lease_waits_for_database", tool=self._claim.spec.name)
                await asyncio.sleep(effects.RENEW_EVERY_S / 6)
                continue
            await asyncio.sleep(effects.RENEW_EVERY_S)


class Ledger(Hold):
    """The ledger as one attempt of one tool call uses it."""

    def __init__(self, database: Database, request: ToolRunRequest, spec: ToolSpec, *, hold: bool = False) -> None:
        undo_timeout_s = spec.timeout_s if spec.undo else None
        super().__init__(database, Claim(request, spec, uuid.uuid4().hex, WORKER, hold, undo_timeout_s))

    async def begin(
        self, *, key: str | None = None, release_key: str | None = None, checked: int | None = None, look: bool = False
    ) -> Begun:
        """See `effects.begin`. Begun again after an outage, the token tells our own start from a dead one's."""
        beginning = asyncio.ensure_future(
            until_available(
                lambda: effects.begin(self._database, self._claim, key=key, release_key=release_key, checked=checked, look=look)
            )
        )
        try:
            return await asyncio.shield(beginning)
        except asyncio.CancelledError:
            begun = await beginning
            if begun.outcome == "go" and not self._pure:
                await effects.give_back(self._database, self._claim, begun.key)
            raise

    async def finish(
        self,
        key: str,
        state: State | None,
        text: str,
        *,
        is_error: bool = False,
        reason: str | None = None,
        arguments_hash: str | None = None,
        blob_id: str | None = None,
        note: str = "",
    ) -> Ended:
        """Enter the outcome, however long the database is away within reason, and even when the step is cancelled now.

        Raises:
            StepError: the outcome is a failure, and another attempt of the step has taken the effect over.
        """
        entered = None if self._pure else state
        writing = asyncio.ensure_future(
            until_available(
                lambda: effects.finish(
                    self._database,
                    self._claim,
                    key,
                    state=entered,
                    text=text,
                    is_error=is_error,
                    reason=reason,
                    arguments_hash=arguments_hash,
                    blob_id=blob_id,
                    note=note,
                )
            )
        )
        try:
            ended = await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing
            raise
        if ended is None or not ended.recorded:
            log.error("effect.overtaken", tool=self._claim.spec.name, state=entered)
        if ended is None:
            raise StepError(
                f"Another attempt of this step's {self._claim.spec.name} has begun since, and still runs.",
                failure_class=FailureClass.TRANSIENT,
                code="effect_overtaken",
            )
        return ended

    async def settle(self, says: HookSays, *, message: Message | None = None, ask: AskedByHook | None = None) -> Message:
        """Enter what the hooks say of a held result; see `held_results.settle`."""
        request = self._claim.request
        return await until_available(
            lambda: held_results.settle(self._database, request.run_id, request.step, says, message=message, ask=ask)
        )

    async def result_bytes(self, ended: Ended) -> int:
        """How large the result is, whole."""
        return await effects.result_bytes(self._database, ended.message, ended.blob_id)

    def idempotency_key(self, begun: Begun) -> str:
        """What the other side is told: another key when the effect is done anew after having been undone."""
        request = self._claim.request
        key = begun.key if begun.by_step else business_key(request.tenant, self._claim.spec.name, begun.key)
        return key if begun.generation == 1 else f"{key}:{begun.generation}"


def business_key(tenant: str, tool: str, key: str) -> str:
    """A key that is unique over tenants and tools, and fit for a header."""
    whole = f"{tenant}:{tool}:{key}"
    if whole.isascii() and whole.isprintable() and len(whole) <= IDEMPOTENCY_KEY_CHARS:
        return whole
    return f"{tool}:{uuid.uuid5(uuid.NAMESPACE_OID, whole)}"
