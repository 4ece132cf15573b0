"""Short forms for asking a limiter in tests."""

from __future__ import annotations

from activities.inference.buckets import Alternative, Ask, Bucket, BucketKind, Demand, Measure
from workflows.contracts.inference import LimiterSettings, Priority

DEFAULTS = LimiterSettings()


def requests(limit: float, name: str = "provider:p requests/min", headroom: float = 0.1, period_s: float = 60.0) -> Bucket:
    return Bucket(name, BucketKind.RATE, Measure.REQUESTS, limit, period_s, headroom)


def tokens(limit: float, name: str = "provider:p tokens/min", headroom: float = 0.1) -> Bucket:
    return Bucket(name, BucketKind.RATE, Measure.TOKENS, limit, 60.0, headroom)


def calls(limit: float, name: str = "provider:p concurrency") -> Bucket:
    return Bucket(name, BucketKind.CONCURRENCY, Measure.CONCURRENCY, limit)


def ask(ticket: str, *demands: tuple[Bucket, float], priority: Priority = Priority.NORMAL, horizon_s: float | None = None) -> Ask:
    wanted = tuple(Demand(bucket, amount) for bucket, amount in demands)
    return Ask(
        ticket,
        priority,
        (Alternative("p:m", wanted),),
        DEFAULTS.horizon_s[priority] if horizon_s is None else horizon_s,
        DEFAULTS.passed_by_s[priority],
    )
