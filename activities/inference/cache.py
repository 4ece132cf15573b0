"""The response cache as a worker uses it: one caller over all workers asks a model, the others wait for its answer."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

import structlog

from activities.identity import WORKER
from activities.inference.cache_keys import Asker, cache_key
from state import response_cache
from state.background import end
from state.notices import Notices
from state.pool import Database
from state.response_cache import CHANNEL, LEASE_S, CacheKey, Counts, Flight, Hit
from workflows.contracts.agents import Cache
from workflows.contracts.errors import UnavailableError
from workflows.contracts.inference import CacheSettings
from workflows.contracts.messages import FinishReason, ModelRequest, ModelResponse

log = structlog.get_logger("holdfast.cache")

POLL_S: Final = 1.0
"""How often a follower looks by itself: a notice can be lost, and a dead leader announces nothing."""
SWEEP_EVERY_S: Final = 30.0
_WHOLE: Final = frozenset({FinishReason.STOP, FinishReason.TOOL_CALLS})


@dataclass(frozen=True, slots=True)
class Lead:
    """The caller asks a model, and ends the flight with `keep` or `give_up`."""

    flight: Flight


@dataclass(frozen=True, slots=True)
class Busy:
    """Another caller, alive, asks a model for this very answer: `follow` it."""


@dataclass(slots=True)
class _Watch:
    """What all followers of one key in this process share."""

    task: asyncio.Task[Hit | None]
    stir: asyncio.Event
    followers: int = 0


@dataclass(slots=True)
class _Tally:
    """What came of looking since it was last written down."""

    by_agent: dict[str, Counts] = field(default_factory=lambda: defaultdict(Counts))
    by_key: Counter[str] = field(default_factory=Counter)


class ResponseCache:
    """The answers that all workers share.

    Args:
        settings: gives the settings as they stand now.
        lease_s: how long a silent leader is believed to live.
    """

    def __init__(
        self,
        database: Database,
        notices: Notices,
        settings: Callable[[], CacheSettings] = CacheSettings,
        *,
        worker: str = WORKER,
        lease_s: float = LEASE_S,
    ) -> None:
        self._database = database
        self._settings = settings
        self._worker = worker
        self._lease_s = lease_s
        self._leading: dict[str, Flight] = {}
        self._watches: dict[str, _Watch] = {}
        self._tally = _Tally()
        self._kept = 0
        notices.on(CHANNEL, self._announced)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[ResponseCache]:
        """Keep what this worker leads, and its counts, in the background for the length of the block; then give up what it still leads."""
        tending = asyncio.create_task(self._tend_always())
        try:
            yield self
        finally:
            for task in (tending, *(watch.task for watch in self._watches.values())):
                await end(task)
            for flight in tuple(self._leading.values()):
                await self.give_up(Lead(flight))
            with contextlib.suppress(UnavailableError):
                await self._write_counts()

    @property
    def following(self) -> int:
        """How many callers of this worker wait for somebody else's answer now."""
        return sum(watch.followers for watch in self._watches.values())

    def key(self, request: ModelRequest, model: str, cache: Cache | None, asker: Asker) -> CacheKey | None:
        """The key of a request; None when its answer is not to be looked for: nobody asked for it, or the cache is switched off."""
        return cache_key(request, model, cache, asker) if cache is not None and self._settings().enabled else None

    async def look(self, key: CacheKey) -> Hit | Lead | Busy:
        """Find the answer, or take the lead if nobody alive has it; one round trip.

        Raises:
            DatabaseUnavailableError: nothing is known.
        """
        flight = Flight(key, uuid.uuid4().hex, self._worker, self._lease_s)
        looked = await response_cache.look(self._database, flight)
        if looked.hit is not None:
            return self._counted(key, looked.hit)
        if looked.outcome == "busy":
            return Busy()
        self._leading[flight.token] = flight
        self._tally.by_agent[key.agent].missed += 1
        return Lead(flight)

    async def follow(self, key: CacheKey, timeout_s: float) -> Hit | None:
        """Wait for the answer of whoever leads; None when it gave up, died, or the time is up: then `look` again."""
        watch = self._watches.get(key.digest)
        if watch is None or watch.task.done():
            stir = asyncio.Event()
            watch = self._watches[key.digest] = _Watch(asyncio.create_task(self._watch(key.digest, stir)), stir)
        watch.followers += 1
        try:
            async with asyncio.timeout(timeout_s):
                hit = await asyncio.shield(watch.task)
        except TimeoutError:
            return None
        finally:
            watch.followers -= 1
            if not watch.followers:
                watch.task.cancel()
                if self._watches.get(key.digest) is watch:
                    del self._watches[key.digest]
        return None if hit is None else self._counted(key, hit)

    async def keep(self, lead: Lead, response: ModelResponse, cost_usd: Decimal) -> bool:
        """File the answer, and let all who wait for it have it; `cost_usd` is what every hit saves.

        False when it is not filed: it is cut off, refused or empty, was called off by an invalidation meanwhile, or the database is
        away. The flight is ended all the same.
        """
        flight = self._leading.pop(lead.flight.token, None)
        if flight is None:
            return False
        if not worth_keeping(response):
            await self._end(flight)
            return False
        try:
            kept = await asyncio.shield(response_cache.keep(self._database, flight, response, cost_usd))
        except UnavailableError:
            log.warning("cache.not_kept", agent=flight.key.agent)
            return False
        self._kept += kept
        return kept

    async def give_up(self, lead: Lead) -> None:
        """End the flight without an answer, so that another caller takes the lead; after `keep` it does nothing."""
        flight = self._leading.pop(lead.flight.token, None)
        if flight is not None:
            await self._end(flight)

    def landed(self, lead: Lead, hit: Hit) -> Hit:
        """The leader's answer was found by its meaning, and its flight is over."""
        self._leading.pop(lead.flight.token, None)
        self._tally.by_agent[lead.flight.key.agent].missed -= 1
        return self._counted(lead.flight.key, hit)

    async def stale(self, key: CacheKey) -> Hit | None:
        """The answer, also when its time is over: for when no model can be reached. Not older than the settings' `stale_s`."""
        hit = await response_cache.stale(self._database, key.digest, self._settings().stale_s)
        return None if hit is None else self._counted(key, hit)

    async def sweep(self) -> int:
        """Make room as the settings say; returns how many answers went."""
        settings = self._settings()
        return await response_cache.sweep(self._database, settings.max_entries, settings.stale_s)

    async def _end(self, flight: Flight) -> None:
        """Give the flight up; with the database away its lease ends by itself."""
        try:
            await asyncio.shield(response_cache.give_up(self._database, flight))
        except UnavailableError:
            log.warning("cache.flight_left", agent=flight.key.agent)

    async def _watch(self, digest: str, stir: asyncio.Event) -> Hit | None:
        while True:
            stir.clear()
            try:
                found = await response_cache.peek(self._database, digest)
            except UnavailableError:
                found = True
            if not isinstance(found, bool):
                return found
            if not found:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await stir.wait()

    def _announced(self, digest: str) -> None:
        for key, watch in self._watches.items():
            if digest in ("", key):
                watch.stir.set()

    def _counted(self, key: CacheKey, hit: Hit) -> Hit:
        counts = self._tally.by_agent[key.agent]
        setattr(counts, hit.kind, getattr(counts, hit.kind) + 1)
        counts.saved_usd += hit.saved_usd
        self._tally.by_key[key.digest] += 1
        return hit

    async def _tend_always(self) -> None:
        loop = asyncio.get_running_loop()
        swept = loop.time()
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                if self._leading:
                    await response_cache.renew(self._database, tuple(self._leading.values()), self._lease_s)
                await self._write_counts()
                if self._kept and loop.time() - swept > SWEEP_EVERY_S:
                    self._kept, swept = 0, loop.time()
                    await self.sweep()
            except UnavailableError:
                log.warning("cache.waits_for_database", leading=len(self._leading))
            except Exception as error:  # whatever it was, the leases must go on being renewed
                log.error("cache.failed", error_type=type(error).__name__, exc_info=error)

    async def _write_counts(self) -> None:
        tally, self._tally = self._tally, _Tally()
        if not tally.by_agent:
            return
        try:
            await response_cache.count(self._database, tally.by_agent, tally.by_key)
        except UnavailableError:
            self._add(tally)
            raise

    def _add(self, tally: _Tally) -> None:
        """Take back counts that could not be written."""
        self._tally.by_key.update(tally.by_key)
        for agent, counts in tally.by_agent.items():
            mine = self._tally.by_agent[agent]
            for name in Counts.__dataclass_fields__:
                setattr(mine, name, getattr(mine, name) + getattr(counts, name))


def worth_keeping(response: ModelResponse) -> bool:
    """Whether an answer is whole: not cut off, not refused, not empty."""
    return response.finish in _WHOLE and bool(response.text.strip() or response.tool_calls)
