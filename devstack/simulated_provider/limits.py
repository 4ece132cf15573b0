"""Rate limits that are really enforced, by model, by key and over all, and counted, so that tests can tell how much of them was used."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from devstack.simulated_provider.gauges import Bucket, Gauge, Slots, Window
from devstack.simulated_provider.tally import Tally
from workflows.contracts.messages import Frozen

ACCOUNT = "account"
"""The name of the limits that all models and keys share."""
ANY_MODEL = "*"
"""The name of the limits that each model has of its own unless it is named."""
ANY_KEY = "key:*"
"""The name of the limits that each key has of its own unless it is named, as `key:` and its last four characters."""
KINDS = ("requests", "tokens", "input_tokens", "output_tokens")
CONCURRENCY = "concurrency"
_BUSY_RETRY_S = 1.0


class Limits(Frozen):
    """What is let through per minute; what is not given is not limited.

    Args:
        tokens_per_minute: input and maximum output together, put right to the actual output afterwards.
        output_tokens_per_minute: what was written counts; a call is let in while anything is left.
        concurrency: calls in the air at once.
        mode: `bucket` is refilled evenly; `window` is strict: never more than the limit within any minute.
        burst_s: seconds' worth that an idle bucket holds; 60 lets a whole minute's requests through at once.
    """

    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    input_tokens_per_minute: float | None = Field(default=None, gt=0)
    output_tokens_per_minute: float | None = Field(default=None, gt=0)
    concurrency: int | None = Field(default=None, gt=0)
    mode: Literal["bucket", "window"] = "bucket"
    burst_s: float = Field(default=60.0, gt=0)

    def rate(self, kind: str) -> float | None:
        """What may pass of a kind per minute."""
        rate: float | None = getattr(self, f"{kind}_per_minute")
        return rate


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request takes from each kind of limit."""

    input_tokens: int
    max_output_tokens: int

    def of(self, kind: str) -> float:
        """The amount for a limit of this kind. Output passes while anything is left, so it asks for one token."""
        amounts = {
            "requests": 1,
            "tokens": self.input_tokens + self.max_output_tokens,
            "input_tokens": self.input_tokens,
            "output_tokens": 1,
        }
        return amounts[kind]

    def taken(self, kind: str) -> float:
        """The amount that is used up when the request is let in."""
        return 0 if kind == "output_tokens" else self.of(kind)

    def used(self, kind: str, output_tokens: int) -> float:
        """The amount that it has used in the end."""
        return {"tokens": self.input_tokens + output_tokens, "output_tokens": output_tokens}.get(kind, self.of(kind))


@dataclass(slots=True)
class Verdict:
    """Whether a request passes; if not, which limit stands against it and for how long.

    `too_large` marks a request that is above the limit's whole capacity: waiting will not help it.
    """

    buckets: dict[str, Gauge]
    """Of each kind the limit with the least left: what the answer's headers tell."""
    refused_by: str | None = None
    retry_after_s: float = 0.0
    too_large: bool = False
    at: float = 0.0
    _gauges: list[tuple[tuple[str, str], Gauge]] = field(default_factory=list)
    _slots: list[Slots] = field(default_factory=list)


@dataclass(slots=True)
class RateLimiter:
    """The limits of all models, of all keys and of the account."""

    limits: dict[str, Limits] = field(default_factory=dict)
    now: Callable[[], float] = time.monotonic
    _gauges: dict[tuple[str, str], Gauge] = field(default_factory=dict)
    _slots: dict[str, Slots] = field(default_factory=dict)
    _tallies: dict[tuple[str, str], Tally] = field(default_factory=dict)

    def change(self, limits: Mapping[str, Limits]) -> None:
        """Put new limits in force; what was used under the old ones stays used."""
        self.limits = {**self.limits, **limits}
        now = self.now()
        for (owner, kind), gauge in list(self._gauges.items()):
            new = self._limits_of(owner)
            rate = new.rate(kind)
            if rate is None or isinstance(gauge, Window) != (new.mode == "window"):
                del self._gauges[owner, kind]
                continue
            gauge.change(rate, new.burst_s, now)
            self._tally(owner, kind).changed(now, rate)

    def admit(self, model: str, demand: Demand, key: str = "") -> Verdict:
        """Take the demand from all limits that apply, or from none. `key` is the last part of the key."""
        now = self.now()
        owners = (model, f"key:{key}", ACCOUNT)
        gauges = list(self._held(owners, now))
        slots = list(self._busy(owners))
        verdict = Verdict(_tightest(gauges), at=now)
        if refused := self._refusal(gauges, slots, demand):
            (owner, kind), verdict.retry_after_s = refused
            verdict.refused_by, verdict.too_large = kind, math.isinf(verdict.retry_after_s)
            self._tally(owner, kind).refused += 1
            return verdict
        for (owner, kind), gauge in gauges:
            gauge.take(demand.taken(kind))
            self._tally(owner, kind).admitted(now, gauge.per_minute, demand.taken(kind))
        for owner, slot in slots:
            slot.held += 1
            self._tally(owner, CONCURRENCY).admitted(now, slot.limit, 1)
        verdict._gauges, verdict._slots = gauges, [slot for _, slot in slots]
        return verdict

    def settle(self, verdict: Verdict, demand: Demand, output_tokens: int) -> None:
        """Put an admitted request right: what was reserved and not written comes back, what was written counts."""
        now = self.now()
        for (owner, kind), gauge in verdict._gauges:
            by = demand.used(kind, output_tokens) - demand.taken(kind)
            if by:
                gauge.refill(now)
                gauge.put_right(now if kind == "output_tokens" else verdict.at, by)
                self._tally(owner, kind).used += by
        for slot in verdict._slots:
            slot.held -= 1
        verdict._gauges, verdict._slots = [], []

    def report(self) -> list[dict[str, object]]:
        """What was let through, refused and allowed, one entry a limit."""
        return [{"of": owner, "kind": kind, **tally.report()} for (owner, kind), tally in sorted(self._tallies.items())]

    def _refusal(
        self, gauges: list[tuple[tuple[str, str], Gauge]], slots: list[tuple[str, Slots]], demand: Demand
    ) -> tuple[tuple[str, str], float] | None:
        """The limit that stands longest against the demand, and for how long; None when all let it pass."""
        waits = [(name, gauge.wait_s(demand.of(name[1]))) for name, gauge in gauges]
        waits += [((owner, CONCURRENCY), _BUSY_RETRY_S) for owner, slot in slots if slot.full]
        worst = max(waits, key=lambda wait: wait[1], default=None)
        return worst if worst is not None and worst[1] > 0 else None

    def _held(self, owners: tuple[str, ...], now: float) -> Iterator[tuple[tuple[str, str], Gauge]]:
        """The rates that apply, the model's own first."""
        for owner in owners:
            limits = self._limits_of(owner)
            for kind in KINDS:
                rate = limits.rate(kind)
                if rate is None:
                    continue
                gauge = self._gauges.get((owner, kind))
                if gauge is None:
                    gauge = Window(rate, now) if limits.mode == "window" else Bucket.full(rate, limits.burst_s, now)
                    self._gauges[owner, kind] = gauge
                gauge.refill(now)
                yield (owner, kind), gauge

    def _busy(self, owners: tuple[str, ...]) -> Iterator[tuple[str, Slots]]:
        for owner in owners:
            limit = self._limits_of(owner).concurrency
            if limit is not None:
                slots = self._slots.setdefault(owner, Slots(limit))
                slots.limit = limit
                yield owner, slots

    def _limits_of(self, owner: str) -> Limits:
        named = self.limits.get(owner)
        if named is not None or owner == ACCOUNT:
            return named or Limits()
        return self.limits.get(ANY_KEY if owner.startswith("key:") else ANY_MODEL, Limits())

    def _tally(self, owner: str, kind: str) -> Tally:
        return self._tallies.setdefault((owner, kind), Tally())


def _tightest(gauges: list[tuple[tuple[str, str], Gauge]]) -> dict[str, Gauge]:
    found: dict[str, Gauge] = {}
    for (_, kind), gauge in gauges:
        if kind not in found or gauge.level < found[kind].level:
            found[kind] = gauge
    return found
