"""The limiter of a worker process: callers are given slots under every limit, one statement in flight for all of them.

Why it is as it is: docs/adr/0012-limiter.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import replace

import structlog

from activities.identity import WORKER
from activities.inference.buckets import Alternative, Ask, Bucket, BucketKind, Demand, Estimate, Lease, Measure, Postponed, Slot
from activities.inference.demands import Learned
from activities.inference.limit_batches import Gathered, Pending, Settled, as_charged, pack
from activities.inference.limit_lessons import Lessons
from activities.inference.local_limits import LocalLimits
from activities.inference.told_limits import meant
from state import limits
from state.background import end
from state.limits import Batch, Taken
from state.pool import Database
from workflows.contracts.errors import FailureClass, StepError, UnavailableError
from workflows.contracts.inference import LimiterSettings
from workflows.contracts.messages import ToldLimit, Usage

__all__ = ["Alternative", "Ask", "Bucket", "BucketKind", "Demand", "Estimate", "Lease", "Limiter", "Postponed", "Slot"]

log = structlog.get_logger("holdfast.limiter")

BATCH = 256
"""Asks in one statement; more wait for the next, so that the rows are not locked for long."""
SETTLE_WITHIN_S = 0.05
RENEW_EVERY_S = 2.0
RETRY_S = 0.25
"""How long after an outage was noticed the database is asked again."""


class Limiter:
    """Gives slots under limits that all workers share."""

    def __init__(self, database: Database, settings: LimiterSettings | None = None, *, worker: str = WORKER) -> None:
        self._database = database
        self._worker = worker
        self._gathered = Gathered()
        self._held: defaultdict[str, float] = defaultdict(float)
        self._lessons = Lessons()
        self._wake = asyncio.Event()
        self._flush_timer: asyncio.TimerHandle | None = None
        self.configure(settings or LimiterSettings())

    def configure(self, settings: LimiterSettings) -> None:
        """Take over new settings from the next batch on."""
        self._settings = settings
        self._local = LocalLimits(settings.local_share)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Limiter]:
        """Serve callers for the length of the block; at its end what was settled is sent, and what is held is let go."""
        serving = asyncio.create_task(self._serve())
        try:
            yield self
        finally:
            await end(serving)
            if self._flush_timer is not None:
                self._flush_timer.cancel()
            with contextlib.suppress(UnavailableError):
                await self._send([])
                await limits.let_go(self._database, self._worker)

    async def acquire(self, ask: Ask) -> Slot | Postponed:
        """All limits of one alternative, at once or in a slot that is near; or how long it will take.

        A slot further ahead than `in_process_wait_s` is kept under the ticket: ask again with it then.

        Raises:
            StepError: class caller, code `larger_than_limit`: no alternative could ever be admitted.
        """
        for each in ask.alternatives:
            if _too_large(each) is not None:
                return await self._acquire_possible(ask)
        if not ask.alternatives:
            raise _larger_than_limit(ask)
        answer: asyncio.Future[Slot | Postponed] = asyncio.get_running_loop().create_future()
        self._gathered.asks.append(Pending(ask, answer))
        self._wake.set()
        return await answer

    async def _acquire_possible(self, ask: Ask) -> Slot | Postponed:
        """By those alternatives only that their limits can ever admit."""
        possible = [place for place, each in enumerate(ask.alternatives) if _too_large(each) is None]
        if not possible:
            raise _larger_than_limit(ask)
        given = await self.acquire(replace(ask, alternatives=tuple(ask.alternatives[place] for place in possible)))
        return replace(given, index=possible[given.index])

    def settle(self, lease: Lease, used: Usage | None) -> None:
        """Put right what a call took: the difference to what it used is given back or charged. None: all of it stays taken."""
        if not self._end(lease):
            return
        for demand in () if lease.local else lease.alternative.demands:
            bucket = demand.bucket
            spent = demand.amount if used is None else _used(bucket.measure, used, demand.amount)
            if bucket.kind is BucketKind.CONCURRENCY or spent != demand.amount:
                self._gathered.settled.append(Settled(bucket, demand.amount, spent, lease.slot_at))
        if used is not None:
            self._lessons.learn(lease.alternative, used)
        self._flush_soon()

    def give_back(self, lease: Lease) -> None:
        """The call was not made: everything it took is given back."""
        if not self._end(lease):
            return
        for demand in () if lease.local else lease.alternative.demands:
            if demand.bucket.kind is not BucketKind.CONCURRENCY:
                self._gathered.settled.append(Settled(demand.bucket, demand.amount, 0.0, lease.slot_at))
        self._flush_soon()

    def told(self, lease: Lease, told: Sequence[ToldLimit]) -> None:
        """What the provider said of its limits beside the call's answer: believed where it is less than we thought."""
        if lease.unseen and lease.open:
            lease.unseen = False
            self._hold(lease.alternative.demands, -1, rates=True, calls=False)
        for each in told:
            bucket = meant(lease.alternative, each)
            if bucket is not None:
                limit = None if each.limit is None or each.limit <= 0 else each.limit
                self._gathered.told[bucket] = (limit, each.remaining)
        if told:
            self._flush_soon()

    def cool_down(self, buckets: Iterable[Bucket], wait_s: float) -> None:
        """No slot of these before so many seconds have passed, for all workers."""
        for bucket in buckets:
            self._gathered.cooled[bucket] = max(wait_s, self._gathered.cooled.get(bucket, 0.0))
        self._wake.set()

    def learned(self, model: str) -> Learned:
        """What all workers have learned of PROVIDER:MODEL; for `demands`."""
        return self._lessons.of(model)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        renew_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(renew_at):
                    await self._wake.wait()
            self._wake.clear()
            try:
                if loop.time() >= renew_at:
                    renew_at = loop.time() + RENEW_EVERY_S
                    held = {name: amount for name, amount in self._held.items() if amount > 0}
                    self._lessons.take(await limits.renew(self._database, self._worker, held, self._lessons.hand_in()))
                if not self._gathered.empty:
                    await self._send(self._next_asks())
            except UnavailableError:
                log.warning("limiter.database_away", waiting=len(self._gathered.asks), then=self._settings.when_database_is_away)
                self._while_away()
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # whatever it was, callers wait for what this task serves
                log.error("limiter.failed", error_type=type(error).__name__, exc_info=error)
                await asyncio.sleep(RETRY_S)
            if self._gathered.asks:
                self._wake.set()

    def _next_asks(self) -> list[Pending]:
        """The callers that still wait, the most urgent first."""
        asks = [each for each in self._gathered.asks if not each.answer.done()]
        if len({each.ask.passed_by_s for each in asks}) > 1:
            asks.sort(key=lambda each: each.ask.passed_by_s)
        self._gathered.asks = asks[BATCH:]
        return asks[:BATCH]

    async def _send(self, asks: list[Pending]) -> None:
        gathered, self._gathered = self._gathered, Gathered(asks=self._gathered.asks)
        if not asks and not (gathered.settled or gathered.told or gathered.cooled):
            return
        try:
            batch = pack(gathered, asks, self._held)
            settings = self._settings
            taken = await limits.take(self._database, batch, self._worker, settings.in_process_wait_s, settings.told_holds_s)
            if asks:
                self._answer(asks, batch, taken)
        except UnavailableError:
            self._keep(gathered, asks)
            raise
        except Exception as error:
            for each in asks:
                if not each.answer.done():
                    each.answer.set_exception(error)
            log.exception("limiter.batch_failed", asks=len(asks))

    def _keep(self, gathered: Gathered, asks: list[Pending]) -> None:
        """After an outage nobody knows whether the batch arrived: charges are sent again, what gave back is not."""
        self._gathered.asks[:0] = asks
        self._gathered.settled[:0] = [each for each in gathered.settled if each.charges]
        self._gathered.cooled = gathered.cooled | self._gathered.cooled
        self._gathered.told = gathered.told | self._gathered.told

    def _while_away(self) -> None:
        if self._settings.when_database_is_away != "local":
            return
        for each in sorted(self._gathered.asks, key=lambda each: each.ask.passed_by_s):
            if not each.answer.done():
                given = self._local.acquire(each.ask, self._held, self._settings.in_process_wait_s)
                if isinstance(given, Slot):
                    self._hold(given.lease.alternative.demands, 1)
                each.answer.set_result(given)
        self._gathered.asks.clear()

    def _answer(self, asks: Sequence[Pending], batch: Batch, taken: Taken) -> None:
        forms, ends = batch.asks[1], [0, *batch.forms[4]]
        if taken.slots is None or taken.expected is None or taken.binding is None or taken.told_s is None:
            for pending, got, form in zip(asks, taken.got, forms, strict=True):
                index = got - 1 - ends[form - 1]
                lease = Lease(pending.ask.alternatives[index], taken.at)
                self._give(pending, Slot(index, 0.0, taken.at, lease))
            return
        charged = iter(taken.charged or ())
        answers = zip(asks, forms, taken.got, taken.slots, taken.expected, taken.binding, taken.told_s, strict=True)
        for pending, form, got, slot_at, expected, bound, told_s in answers:
            limit = batch.names[bound - 1] if bound else ""
            if got == 0:
                if not pending.answer.done():
                    pending.answer.set_result(Postponed(0, expected - taken.at, limit, told_s))
                continue
            index = abs(got) - 1 - ends[form - 1]
            delay_s = slot_at - taken.at
            alternative = pending.ask.alternatives[index]
            if got < 0:
                alternative = as_charged(alternative, charged)
            lease = Lease(alternative, slot_at, held=delay_s <= self._settings.in_process_wait_s)
            self._give(pending, Slot(index, delay_s, slot_at, lease, limit, told_s if told_s is not None else (delay_s or None)))

    def _give(self, pending: Pending, slot: Slot) -> None:
        if slot.lease.held:
            self._hold(slot.lease.alternative.demands, 1)
        if pending.answer.done():
            self.give_back(slot.lease)
        else:
            pending.answer.set_result(slot)

    def _end(self, lease: Lease) -> bool:
        if not lease.open:
            return False
        lease.open = False
        if lease.held:
            self._hold(lease.alternative.demands, -1, rates=lease.unseen)
        return True

    def _hold(self, demands: Iterable[Demand], sign: int, *, rates: bool = True, calls: bool = True) -> None:
        for demand in demands:
            if calls if demand.bucket.kind is BucketKind.CONCURRENCY else rates:
                left = self._held[demand.bucket.name] + sign * demand.amount
                self._held[demand.bucket.name] = left if left > 1e-6 else 0.0

    def _flush_soon(self) -> None:
        if self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(SETTLE_WITHIN_S, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        self._wake.set()


def _too_large(alternative: Alternative) -> Demand | None:
    for demand in alternative.demands:
        if demand.amount > demand.bucket.usable:
            return demand
    return None


def _larger_than_limit(ask: Ask) -> StepError:
    found = next((demand for each in ask.alternatives if (demand := _too_large(each)) is not None), None)
    if found is None:
        return StepError("No alternative was named to the limiter.", failure_class=FailureClass.CALLER, code="no_candidate")
    bucket = found.bucket
    return StepError(
        f"This call needs {found.amount:,.0f} of limit {bucket.name!r}, which never admits more than {bucket.usable:,.0f} at once "
        f"({bucket.limit:,.0f} less {bucket.headroom:.0%} headroom): shorten the call, lower its max_output_tokens, or raise the limit.",
        failure_class=FailureClass.CALLER,
        code="larger_than_limit",
    )


def _used(measure: Measure, used: Usage, reserved: float) -> float:
    amounts = {Measure.TOKENS: used.total_tokens, Measure.INPUT_TOKENS: used.input_tokens, Measure.OUTPUT_TOKENS: used.output_tokens}
    return float(amounts.get(measure, reserved))
