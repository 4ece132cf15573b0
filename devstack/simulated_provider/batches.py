"""Batches of the simulated provider: many requests handed in at once, and answered together after a while."""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from devstack.simulated_provider.dialect import BadRequestError, Dialect, ErrorReply, Planned
from devstack.simulated_provider.faults import CHANGES_ANSWER, Fault, FaultKind
from devstack.simulated_provider.journal import Delivery, JournalEntry

if TYPE_CHECKING:
    from devstack.simulated_provider.server import SimulatedProvider

EXPIRES_AFTER_S = 86_400


class Ending(StrEnum):
    """How a request of a batch ended."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    ERRORED = "errored"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class BatchItem:
    """One request of a batch, and what became of it."""

    custom_id: str
    body: dict[str, Any]
    ending: Ending = Ending.PENDING
    request_id: str = ""
    answer: Planned | None = None
    error: ErrorReply | None = None


@dataclass(slots=True)
class SimulatedBatch:
    """A batch. Times are seconds since the epoch; `ended_at` is None while it is worked on."""

    batch_id: str
    dialect: Dialect
    items: list[BatchItem]
    created_at: float
    metadata: dict[str, str] = field(default_factory=dict)
    input_file_id: str = ""
    ended_at: float | None = None
    cancelled_at: float | None = None
    hurried: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, ending: Ending) -> int:
        """How many of its requests ended so."""
        return sum(item.ending is ending for item in self.items)

    @property
    def expired(self) -> bool:
        """Whether it ran out of time before all its requests were done."""
        return self.count(Ending.EXPIRED) > 0


@dataclass(slots=True)
class Batches:
    """All batches, newest last. One that is handed in now takes `takes_s` seconds."""

    provider: SimulatedProvider
    takes_s: float = 0.0
    all: list[SimulatedBatch] = field(default_factory=list)
    _working: set[asyncio.Task[None]] = field(default_factory=set)

    def create(
        self, dialect: Dialect, items: list[BatchItem], *, metadata: dict[str, str] | None = None, input_file_id: str = ""
    ) -> SimulatedBatch:
        """Take a batch in, and begin to work on it."""
        batch = SimulatedBatch(
            batch_id=f"sim-batch-{self.provider.id_prefix[-8:]}-{len(self.all) + 1}",
            dialect=dialect,
            items=items,
            created_at=time.time(),
            metadata=metadata or {},
            input_file_id=input_file_id,
        )
        self.all.append(batch)
        task = asyncio.create_task(self._work(batch, self.takes_s))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return batch

    def find(self, batch_id: str, dialect: Dialect) -> SimulatedBatch | None:
        """The batch of this id."""
        return next((batch for batch in self.all if batch.batch_id == batch_id and batch.dialect.name == dialect.name), None)

    def of(self, dialect: Dialect) -> list[SimulatedBatch]:
        """All batches of a dialect, newest first, as both APIs list them."""
        return [batch for batch in reversed(self.all) if batch.dialect.name == dialect.name]

    def hurry(self) -> None:
        """End every batch now that is worked on."""
        for batch in self.all:
            batch.hurried.set()

    async def ended(self) -> None:
        """Wait until no batch is worked on."""
        await asyncio.gather(*self._working)

    def cancel(self, batch: SimulatedBatch) -> None:
        """Cancel what is not done yet."""
        if batch.ended_at is None:
            batch.cancelled_at = time.time()
            batch.hurried.set()

    def stop(self) -> None:
        """Work on nothing any more."""
        for task in self._working:
            task.cancel()

    async def _work(self, batch: SimulatedBatch, takes_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(batch.hurried.wait(), takes_s)
        for item in batch.items:
            if batch.cancelled_at is not None:
                item.ending = Ending.CANCELLED
            else:
                self._answer(batch, item)
        batch.ended_at = time.time()

    def _answer(self, batch: SimulatedBatch, item: BatchItem) -> None:
        entry = self.provider.requests.begin(batch.dialect.name, self.provider.id_prefix)
        entry.batch, entry.idempotency_key, item.request_id = True, item.custom_id, entry.request_id
        try:
            self._fill(batch.dialect, item, entry)
        finally:
            self.provider.requests.finish(entry, Delivery.COMPLETE)

    def _fill(self, dialect: Dialect, item: BatchItem, entry: JournalEntry) -> None:
        try:
            incoming = dialect.parse(item.body)
        except BadRequestError as error:
            _refuse(item, entry, dialect.bad_request(str(error)), None)
            return
        entry.model = incoming.request.model
        fault = self.provider.faults.in_batch(incoming.request)
        if fault and fault.kind is FaultKind.BATCH_EXPIRES:
            item.ending, entry.fault = Ending.EXPIRED, fault.label
            return
        if fault and fault.kind not in CHANGES_ANSWER:
            _refuse(item, entry, dialect.error(fault, ""), fault.label)
            return
        try:
            item.answer, fault = self.provider.answerer.plan(incoming, entry.request_id, fault)
        except Exception:
            traceback.print_exc()
            _refuse(item, entry, dialect.error(Fault(kind=FaultKind.SERVER_ERROR), ""), "policy_raised")
            return
        item.ending = Ending.SUCCEEDED
        entry.status, entry.billed, entry.usage = 200, True, item.answer.usage
        entry.fault = fault.label if fault else None


def _refuse(item: BatchItem, entry: JournalEntry, reply: ErrorReply, fault: str | None) -> None:
    item.ending, item.error = Ending.ERRORED, reply
    entry.status, entry.fault = reply.status, fault
