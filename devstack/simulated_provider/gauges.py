"""What one limit lets through: a bucket that is refilled evenly, a strict sliding window, or a number of calls at once."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

WINDOW_S = 60.0


class Gauge(Protocol):
    """One limit. `level` is what may still pass now, after `refill`."""

    per_minute: float

    @property
    def level(self) -> float:
        """What may still pass now."""
        ...

    @property
    def reset_s(self) -> float:
        """Seconds until the whole limit is free again."""
        ...

    def change(self, per_minute: float, burst_s: float, now: float) -> None:
        """Put another limit in force; what was used stays used."""
        ...

    def refill(self, now: float) -> None:
        """Bring it up to the present."""
        ...

    def wait_s(self, amount: float) -> float:
        """Seconds until the amount would pass; for ever if it never could."""
        ...

    def take(self, amount: float) -> None:
        """Use the amount up."""
        ...

    def put_right(self, taken_at: float, by: float) -> None:
        """Use so much more (or, below zero, less) than was taken at that time."""
        ...


@dataclass(slots=True)
class Bucket:
    """Refilled evenly over time up to `capacity`, as the providers describe their own limits."""

    per_minute: float
    capacity: float
    level: float
    at: float

    @classmethod
    def full(cls, per_minute: float, burst_s: float, now: float) -> Bucket:
        """A bucket that nobody has used yet."""
        capacity = per_minute * burst_s / 60
        return cls(per_minute, capacity, capacity, now)

    @property
    def reset_s(self) -> float:
        """Seconds until the bucket is full again."""
        return max(0.0, (self.capacity - self.level) * 60 / self.per_minute)

    def change(self, per_minute: float, burst_s: float, now: float) -> None:
        """Another rate; the same share of the bucket stays used."""
        self.refill(now)
        share = self.level / self.capacity
        self.per_minute, self.capacity = per_minute, per_minute * burst_s / 60
        self.level = self.capacity * share

    def refill(self, now: float) -> None:
        """Bring the level up to the present."""
        self.level = min(self.capacity, self.level + (now - self.at) * self.per_minute / 60)
        self.at = now

    def wait_s(self, amount: float) -> float:
        """Seconds until the amount would pass; for ever if it is above the capacity."""
        if amount > self.capacity:
            return math.inf
        return max(0.0, (amount - self.level) * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Use the amount up."""
        self.level -= amount

    def put_right(self, taken_at: float, by: float) -> None:
        """Use more or less; when it was taken makes no difference here."""
        self.level = min(self.capacity, self.level - by)


@dataclass(slots=True)
class Window:
    """At most the limit within any minute: stricter than a bucket, which after a pause lets up to twice as much through in one."""

    per_minute: float
    now: float
    _used: deque[tuple[float, float]] = field(default_factory=deque)
    _sum: float = 0.0

    @property
    def level(self) -> float:
        """What may still pass now; below zero after the limit was lowered."""
        return self.per_minute - self._sum

    @property
    def reset_s(self) -> float:
        """Seconds until nothing of the last minute counts any more."""
        return self._used[-1][0] + WINDOW_S - self.now if self._used else 0.0

    def change(self, per_minute: float, burst_s: float, now: float) -> None:
        """Another limit; what was used in the last minute counts against it."""
        self.refill(now)
        self.per_minute = per_minute

    def refill(self, now: float) -> None:
        """Forget what is a minute old."""
        self.now = now
        while self._used and self._used[0][0] + WINDOW_S <= now:
            self._sum -= self._used.popleft()[1]
        if not self._used:
            self._sum = 0.0

    def wait_s(self, amount: float) -> float:
        """Seconds until enough of the last minute is forgotten."""
        if amount > self.per_minute:
            return math.inf
        free = self.level
        for at, used in self._used:
            if amount <= free:
                break
            free += used
            if amount <= free:
                return at + WINDOW_S - self.now
        return 0.0

    def take(self, amount: float) -> None:
        """Use the amount up, as of now."""
        self._add(self.now, amount)

    def put_right(self, taken_at: float, by: float) -> None:
        """Use more or less at the time it was taken; what is forgotten already stays so."""
        if taken_at + WINDOW_S > self.now:
            self._add(taken_at, by)

    def _add(self, at: float, amount: float) -> None:
        """One entry a moment, so that what comes back of one is never counted apart from it."""
        place = len(self._used)
        while place and self._used[place - 1][0] > at:
            place -= 1
        if place and self._used[place - 1][0] == at:
            self._used[place - 1] = (at, self._used[place - 1][1] + amount)
        else:
            self._used.insert(place, (at, amount))
        self._sum += amount


@dataclass(slots=True)
class Slots:
    """Calls in the air at once."""

    limit: int
    held: int = 0

    @property
    def full(self) -> bool:
        """Whether the next call is refused."""
        return self.held >= self.limit
