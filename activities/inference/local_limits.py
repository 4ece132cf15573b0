"""A worker's own share of every limit, for the time that the database is away. Never more than the share, never unlimited."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from activities.inference.buckets import Ask, Bucket, BucketKind, Demand, Lease, Postponed, Slot


class LocalLimits:
    """Evenly spaced slots at `share` of each rate: in a period never more than the share and one call.

    Counts start at nothing used, and are kept for the process's life.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._free_at: dict[str, float] = {}

    def acquire(self, ask: Ask, held: Mapping[str, float], patience_s: float) -> Slot | Postponed:
        """A slot from this worker's share; none further ahead than callers wait in process, as no ticket would keep it."""
        now = asyncio.get_running_loop().time()
        waits = [self._wait_s(alternative.demands, held, now) for alternative in ask.alternatives]
        best = min(range(len(waits)), key=lambda place: waits[place][0] + ask.alternatives[place].penalty_s)
        wait_s, limit, full = waits[best]
        if full or wait_s > min(ask.horizon_s, patience_s):
            return Postponed(best, max(0.05, wait_s), limit)
        for demand in ask.alternatives[best].demands:
            if demand.bucket.kind is not BucketKind.CONCURRENCY:
                name = demand.bucket.name
                self._free_at[name] = max(now + wait_s, self._free_at.get(name, now)) + demand.amount * self._unit_s(demand.bucket)
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

    def _unit_s(self, bucket: Bucket) -> float:
        return bucket.period_s / (bucket.usable * self._share)
