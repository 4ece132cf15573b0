"""A worker's own share of every limit, for the time that the database is away. Never more than the share, never unlimited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from activities.inference.buckets import Ask, Bucket, BucketKind, Demand, Lease, Postponed, Slot

COMES_BACK_WITHIN_S = 5.0
"""How long after the moment it was told a call keeps its place without asking again."""


@dataclass(frozen=True, slots=True)
class _Waits:
    """A call that was sent away, and what it would take."""

    asked_at: float
    rank_at: float
    costs_s: Mapping[str, float]
    until: float


class LocalLimits:
    """Evenly spaced slots at `share` of each rate: in a period never more than the share and one call.

    Counts start at nothing used, and are kept for the process's life. Who waits keeps its place among this worker's calls, by
    priority as with the database; no slot is kept for it.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._free_at: dict[str, float] = {}
        self._line: dict[str, _Waits] = {}

    def acquire(self, ask: Ask, held: Mapping[str, float], patience_s: float) -> Slot | Postponed:
        """A slot from this worker's share; none further ahead than callers wait in process, as no ticket would keep it."""
        now = asyncio.get_running_loop().time()
        self._line = {ticket: each for ticket, each in self._line.items() if each.until >= now}
        known = self._line.pop(ask.ticket, None)
        asked_at = now if known is None else known.asked_at
        rank_at = asked_at + ask.passed_by_s
        waits = [self._wait_s(alternative.demands, held, now) for alternative in ask.alternatives]
        fronts = [self._in_front_s(alternative.demands, rank_at) for alternative in ask.alternatives]
        best = min(range(len(waits)), key=lambda place: waits[place][0] + fronts[place] + ask.alternatives[place].penalty_s)
        (wait_s, limit, full), front_s = waits[best], fronts[best]
        demands = ask.alternatives[best].demands
        if full or wait_s + front_s > min(ask.horizon_s, patience_s):
            wait_s = max(0.05, wait_s + front_s)
            self._line[ask.ticket] = _Waits(asked_at, rank_at, self._costs_s(demands), now + wait_s + COMES_BACK_WITHIN_S)
            return Postponed(best, wait_s, limit or demands[0].bucket.name)
        for name, cost_s in self._costs_s(demands).items():
            self._free_at[name] = max(now + wait_s, self._free_at.get(name, now)) + cost_s
        return Slot(best, wait_s, 0.0, Lease(ask.alternatives[best], 0.0, local=True), limit)

    def _wait_s(self, demands: tuple[Demand, ...], held: Mapping[str, float], now: float) -> tuple[float, str, bool]:
        wait_s, limit = 0.0, ""
        for demand in demands:
            bucket = demand.bucket
            if bucket.kind is BucketKind.CONCURRENCY:
                if held.get(bucket.name, 0.0) + demand.amount > max(1.0, bucket.limit * self._share):
                    return 1.0, bucket.name, True
            elif (free_s := self._free_at.get(bucket.name, now) - now) > wait_s:
                wait_s, limit = free_s, bucket.name
        return wait_s, limit, False

    def _in_front_s(self, demands: tuple[Demand, ...], rank_at: float) -> float:
        """What those take that wait with a better rank, in the limit where it is most."""
        before = [each for each in self._line.values() if each.rank_at < rank_at]
        return max((sum(each.costs_s.get(demand.bucket.name, 0.0) for each in before) for demand in demands), default=0.0)

    def _costs_s(self, demands: tuple[Demand, ...]) -> dict[str, float]:
        rates = (demand for demand in demands if demand.bucket.kind is not BucketKind.CONCURRENCY)
        return {demand.bucket.name: demand.amount * self._unit_s(demand.bucket) for demand in rates}

    def _unit_s(self, bucket: Bucket) -> float:
        return bucket.period_s / (bucket.usable * self._share)
