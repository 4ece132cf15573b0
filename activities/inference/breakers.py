"""A worker's view of the breakers that all workers share: looked at without I/O, told in batches, heard of at once (docs/adr/0014)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import structlog

from activities.identity import WORKER
from activities.inference.breaker_rules import Say, cooled, judge
from activities.inference.breaker_standing import Copy, Standing, class_of, cooling, worst
from state import breakers
from state.background import end
from state.breakers import Breaker, Outcome
from state.notices import Notices
from state.pool import Database
from telemetry.inference import record_breaker_change
from workflows.contracts import policies
from workflows.contracts.errors import FailureClass, UnavailableError
from workflows.contracts.inference import BreakerSettings

__all__ = ["Breakers", "Standing"]

log = structlog.get_logger("holdfast.breakers")

POLL_S: Final = 1.0
FLUSH_S: Final = 0.2
PROBE_LEASE_S: Final = 5.0
"""A prober that has said nothing for this long, or for one period where that is longer, is taken as dead."""
Alert = Callable[[str, dict[str, Any]], None]


class Breakers:
    """What this worker knows of the shared breakers, and tells of them.

    As a context manager it keeps a task that writes outcomes down (failures at once, good calls every 0.2 s), reads all breakers
    every second and whenever another worker announces a change. With the database away the copies go on to hold, and what
    calls came to is kept until it is back. No method but `claim_probe` waits for anything.
    """

    def __init__(
        self,
        database: Database,
        settings: BreakerSettings,
        *,
        notices: Notices | None = None,
        alert: Alert | None = None,
        worker: str = WORKER,
    ) -> None:
        self._database = database
        self._settings = settings
        self._alert = alert
        self._worker = worker
        self._copies: dict[str, Copy] = {}
        self._untold: dict[str, Outcome] = {}
        self._telling: dict[str, Outcome] = {}
        self._probing: dict[str, float] = {}
        self._claiming: set[str] = set()
        self._renewed: set[str] = set()
        self._stir = asyncio.Event()
        self._look = True
        self._started = False
        self._task: asyncio.Task[None] | None = None
        if notices is not None:
            notices.on(breakers.CHANNEL, lambda _scope: self._look_again())

    def configure(self, settings: BreakerSettings) -> None:
        """Count by other settings from now on; what is open stays open for as long as it was opened for."""
        self._settings = settings

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._task is not None:
            await end(self._task)
        for scope in tuple(self._probing):
            self._note(Outcome(scope, probe="none"))
        with contextlib.suppress(UnavailableError):
            await self.flush()

    def standing(self, scopes: Iterable[str]) -> Standing:
        """The worst of these scopes as this worker knows them; `free` when a call may go. No I/O."""
        return worst(self._standing(scope) for scope in scopes)

    def _standing(self, scope: str) -> Standing:
        if scope in self._probing:
            return Standing(scope, "open", self._settings.open_s, "a probe of this worker is in the air")
        for untold in (self._untold.get(scope), self._telling.get(scope)):
            if untold is not None and untold.trip_s:
                return Standing(scope, "open", untold.trip_s, untold.reason or "", failure_class=class_of(untold.failure_class))
            if untold is not None and untold.cool_s:
                return cooling(scope, untold.cool_s)
        copy = self._copies.get(scope)
        return Standing(scope) if copy is None else copy.standing()

    async def claim_probe(self, *scopes: str) -> bool:
        """Whether this call is the one probe of those of its scopes that are due; one round trip. One call of all workers wins a period.

        The call that won must be told by `succeeded`, `failed` or `gave_up`. False with the database away.
        """
        if self._claiming.intersection(scopes) or self._probing.keys() & set(scopes):
            return False
        self._claiming.update(scopes)
        claimed: list[str] | None = None
        try:
            claimed = await breakers.claim_probe(self._database, self._worker, scopes, self._lease_s)
        except UnavailableError as error:
            log.warning("breaker.no_probe", problem=str(error))
        finally:
            self._claiming.difference_update(scopes)
        if claimed:
            self._probing.update(dict.fromkeys(claimed, time.monotonic()))
            log.info("breaker.probe", scopes=claimed)
        self._look_again()
        return claimed is not None

    def succeeded(self, scopes: Iterable[str]) -> None:
        """A call was answered. Counted only where there is trouble."""
        for scope in scopes:
            self._note(Outcome(scope, calls=1, good=True, probe="good" if self._probing.pop(scope, None) else None))

    def failed(
        self, scopes: Sequence[str], failure_class: FailureClass, *, retry_after_s: float | None = None, code: str | None = None
    ) -> None:
        """A call failed. What that says of each scope: `breaker_rules.judge`; all workers keep a wait that the other side asked for."""
        reason = f"{failure_class.value} ({code})" if code else failure_class.value
        for scope, say in judge(scopes, failure_class, code).items():
            probing = self._probing.pop(scope, None) is not None
            if say is Say.GOOD:
                self._note(Outcome(scope, calls=1, good=True, probe="good" if probing else None))
            elif say is Say.NOTHING:
                self._note(Outcome(scope, probe="none" if probing else None))
            else:
                trip_s = self._settings.quota_open_s if say is Say.REFUSED else None
                if trip_s is not None:
                    self._tell_refused(scope, reason)
                bad = Outcome(scope, calls=1, failures=1, in_a_row=1, trip_s=trip_s, probe="bad" if probing else None)
                self._note(replace(bad, reason=reason, failure_class=failure_class.value))
        if retry_after_s:
            self.cool_down((cooled(scopes),), retry_after_s)

    def gave_up(self, scopes: Iterable[str], *, sent: bool = True) -> None:
        """A call ended without a say, as by being cancelled. If it was a probe the next is due a period later; at once if not `sent`."""
        for scope in scopes:
            if self._probing.pop(scope, None) is not None:
                self._note(Outcome(scope, probe="none" if sent else "unsent"))

    def cool_down(self, scopes: Iterable[str], wait_s: float) -> None:
        """Let no worker ask for `wait_s`, because the other side said so. That is no failure."""
        for scope in scopes:
            self._note(Outcome(scope, cool_s=wait_s))

    def renewed(self, provider: str, key: str) -> None:
        """A key has another secret: its breakers are probed now, not when their time is over."""
        self._renewed.add(f"key:{provider}/{key}")
        self._stir.set()

    async def flush(self) -> None:
        """Write down what is not yet. The background task does it by itself.

        Raises:
            UnavailableError: the database is away; everything is kept.
        """
        if self._untold:
            await self._record()
        while self._renewed:
            key = next(iter(self._renewed))
            await breakers.probe_now(self._database, key)
            self._renewed.discard(key)
            self._look_again()

    async def _record(self) -> None:
        self._telling, self._untold = self._untold, {}
        try:
            found = await breakers.record(self._database, self._worker, list(self._telling.values()), self._settings)
        except BaseException:
            for outcome in self._untold.values():
                self._telling.setdefault(outcome.scope, Outcome(outcome.scope)).add(outcome)
            self._untold = self._telling
            raise
        finally:
            self._telling = {}
        self._take(found)

    async def refresh(self) -> None:
        """Read how all breakers stand. The background task does it by itself.

        Raises:
            UnavailableError: the database is away.
        """
        self._take(await breakers.read_all(self._database))
        self._started = True

    @property
    def _lease_s(self) -> float:
        return max(self._settings.open_s, PROBE_LEASE_S)

    def _note(self, outcome: Outcome) -> None:
        copy = self._copies.get(outcome.scope)
        plain = not outcome.failures and outcome.cool_s is None and outcome.probe is None
        if plain and (not outcome.calls or copy is None or not copy.troubled(self._settings.window_s)):
            return
        self._untold.setdefault(outcome.scope, Outcome(outcome.scope)).add(outcome)
        if not plain:
            self._stir.set()
        elif len(self._untold) == 1:
            asyncio.get_running_loop().call_later(FLUSH_S, self._stir.set)

    def _look_again(self) -> None:
        self._look = True
        self._stir.set()

    async def _work(self) -> None:
        looked_at = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):  # wait_for of Python 3.11 can swallow the cancellation at the end
                    await self._stir.wait()
            self._stir.clear()
            try:
                await self.flush()
                if self._look or time.monotonic() - looked_at >= POLL_S:
                    looked_at, self._look = time.monotonic(), False
                    await self._renew()
                    await self.refresh()
            except UnavailableError as error:
                self._look = True
                log.warning("breakers.wait_for_database", problem=str(error))
                await asyncio.sleep(FLUSH_S)
            except Exception as error:  # whatever it was, the breakers must go on
                log.error("breakers.failed", error_type=type(error).__name__, exc_info=error)
                await asyncio.sleep(FLUSH_S)

    async def _renew(self) -> None:
        """A probe may take as long as a model call may; longer only if its call was forgotten."""
        oldest = time.monotonic() - policies.MODEL_CALL.start_to_close_s
        self._probing = {scope: since for scope, since in self._probing.items() if since > oldest}
        if self._probing:
            await breakers.renew_probes(self._database, self._worker, tuple(self._probing), self._lease_s)

    def _tell_refused(self, scope: str, reason: str) -> None:
        """A key does not get better by itself: people are told, beside what its breaker tells."""
        kind, _, rest = scope.partition(":")
        if kind == "key" and self._alert is not None:
            key, _, model = rest.partition(":")
            self._alert("key_refused", {"scope": scope, "key": key, "reason": reason} | ({"model": model} if model else {}))

    def _take(self, found: Iterable[Breaker]) -> None:
        now = time.monotonic()
        for one in found:
            before = self._copies.get(one.scope)
            self._copies[one.scope] = Copy(one, now)
            if self._started:
                self._tell_change(before.breaker if before else None, one)

    def _tell_change(self, before: Breaker | None, now: Breaker) -> None:
        if now.state != (before.state if before is not None else "closed"):
            record_breaker_change(now.scope, now.state)
        if now.state == "open" and (before is None or now.openings > before.openings):
            log.warning("breaker.opened", scope=now.scope, reason=now.reason, open_for_s=now.open_for_s)
            if self._alert is not None:
                self._alert("breaker_opened", {"scope": now.scope, "reason": now.reason or "", "openings": now.openings})
        elif before is not None and before.state != "closed" and now.state == "closed":
            log.info("breaker.closed", scope=now.scope)
