"""Rate limits that are really enforced: leaky buckets, as the providers describe their own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import Field

from workflows.contracts.messages import Frozen

ACCOUNT = "account"
"""The key of the limits that all models share."""
ANY_MODEL = "*"
"""The key of the limits that each model has of its own unless it is named."""


class Limits(Frozen):
    """What is let through per minute; what is not given is not limited.

    Args:
        tokens_per_minute: input and maximum output together, put right to the actual output afterwards.
        output_tokens_per_minute: what was written counts; a call is let in while anything is left.
        burst_s: seconds' worth that an idle bucket holds; 60 lets a whole minute's requests through at once.
    """

    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    input_tokens_per_minute: float | None = Field(default=None, gt=0)
    output_tokens_per_minute: float | None = Field(default=None, gt=0)
    burst_s: float = Field(default=60.0, gt=0)


@dataclass(slots=True)
class Bucket:
    """One limit: `level` is what may still pass, refilled evenly over time up to `capacity`."""

    per_minute: float
    capacity: float
    level: float
    at: float

    def refill(self, now: float) -> None:
        """Bring the level up to the present."""
        self.level = min(self.capacity, self.level + (now - self.at) * self.per_minute / 60)
        self.at = now

    def wait_s(self, amount: float) -> float:
        """Seconds until the amount would pass; for ever if it is above the capacity."""
        if amount > self.capacity:
            return math.inf
        return max(0.0, (amount - self.level) * 60 / self.per_minute)

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full again."""
        return max(0.0, (self.capacity - self.level) * 60 / self.per_minute)


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


@dataclass(slots=True)
class Verdict:
    """Whether a request passes; if not, which limit stands against it and for how long.

    `too_large` marks a request that is above the limit's whole capacity: waiting will not help it.
    """

    buckets: dict[str, Bucket]
    refused_by: str | None = None
    retry_after_s: float = 0.0
    too_large: bool = False


@dataclass(slots=True)
class RateLimiter:
    """The buckets of all models and of the account."""

    limits: dict[str, Limits] = field(default_factory=dict)
    now: Callable[[], float] = time.monotonic
    _buckets: dict[tuple[str, str], Bucket] = field(default_factory=dict)

    def change(self, limits: Mapping[str, Limits]) -> None:
        """Put new limits in force; what was used under the old ones stays used."""
        self.limits = {**self.limits, **limits}
        now = self.now()
        for (owner, kind), bucket in list(self._buckets.items()):
            bucket.refill(now)
            rate = self._rate(self._limits_of(owner), kind)
            if rate is None:
                del self._buckets[owner, kind]
                continue
            capacity = rate * self._limits_of(owner).burst_s / 60
            used = (bucket.capacity - bucket.level) / bucket.capacity
            self._buckets[owner, kind] = Bucket(rate, capacity, capacity * (1 - used), now)

    def admit(self, model: str, demand: Demand) -> Verdict:
        """Take the demand from all limits that apply, or from none."""
        now = self.now()
        held = self._held(model, now)
        waits: dict[str, float] = {}
        for _, kind, bucket in held:
            waits[kind] = max(waits.get(kind, 0.0), bucket.wait_s(demand.of(kind)))
        verdict = Verdict({kind: bucket for _, kind, bucket in reversed(held)})
        worst = max(waits, key=lambda kind: waits[kind], default=None)
        if worst is not None and waits[worst] > 0:
            verdict.refused_by, verdict.retry_after_s = worst, waits[worst]
            verdict.too_large = math.isinf(waits[worst])
            return verdict
        for _, kind, bucket in held:
            if kind != "output_tokens":
                bucket.level -= demand.of(kind)
        return verdict

    def settle(self, model: str, demand: Demand, output_tokens: int) -> None:
        """Put the output right: what was reserved and not written comes back, what was written counts."""
        for _, kind, bucket in self._held(model, self.now()):
            if kind == "tokens":
                bucket.level = min(bucket.capacity, bucket.level + demand.max_output_tokens - output_tokens)
            elif kind == "output_tokens":
                bucket.level -= output_tokens

    def _held(self, model: str, now: float) -> list[tuple[str, str, Bucket]]:
        """The buckets that apply, the model's own first."""
        found = []
        for owner in (model, ACCOUNT):
            limits = self._limits_of(owner)
            for kind in ("requests", "tokens", "input_tokens", "output_tokens"):
                rate = self._rate(limits, kind)
                if rate is None:
                    continue
                capacity = rate * limits.burst_s / 60
                bucket = self._buckets.setdefault((owner, kind), Bucket(rate, capacity, capacity, now))
                bucket.refill(now)
                found.append((owner, kind, bucket))
        return found

    def _limits_of(self, owner: str) -> Limits:
        if owner in self.limits or owner == ACCOUNT:
            return self.limits.get(owner, Limits())
        return self.limits.get(ANY_MODEL, Limits())

    @staticmethod
    def _rate(limits: Limits, kind: str) -> float | None:
        rate: float | None = getattr(limits, f"{kind}_per_minute")
        return rate
