"""What one surge came to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.tellings import Told

WINDOW_S = 20.0
HEAD = (
    "case",
    "calls",
    "429",
    "limit used",
    "tellings",
    "off by s, p95",
    "told well",
    "first told well",
    "told well after it",
    "urgent p50 s",
    "normal p50 s",
)
"""Of a table; then what is left."""


@dataclass(frozen=True)
class Found:
    """What one surge came to."""

    name: str
    calls: int
    refused: int
    used: float
    told: Told
    first_told: Told
    told_after: Told | None
    """What was told after the trouble; None where there was none."""
    urgent_p50_s: float
    normal_p50_s: float
    unfinished: int

    def row(self) -> list[object]:
        """As a table shows it."""
        told = [
            self.told.count,
            self.told.error_p95_s,
            self.told.well,
            self.first_told.well,
            self.told_after.well if self.told_after else "n/a",
        ]
        return [self.name, self.calls, self.refused, self.used, *told, self.urgent_p50_s, self.normal_p50_s, self.unfinished]


@dataclass(frozen=True)
class Bound:
    """One limit as it stood over the surge."""

    of: Literal["requests", "tokens"]
    per_minute: float
    model: str = ""
    """Whose calls count; empty: all of the account's."""
    lowered: tuple[float, float] | None = None
    """From which moment on, in seconds since the epoch, it was how much a minute."""

    def share(self, calls: Sequence[Call], begin: float, end: float) -> float:
        """How much of what it lets through between two moments was used."""
        inside = [call for call in calls if begin <= call.at < end and self.model in ("", call.model)]
        allowed = self.per_minute * (end - begin)
        if self.lowered is not None:
            since, then = self.lowered
            allowed += (then - self.per_minute) * max(0.0, end - max(begin, since))
        return (len(inside) if self.of == "requests" else sum(call.tokens for call in inside)) * 60 / allowed


@dataclass(frozen=True)
class Call:
    """One answered call, as the provider's journal has it."""

    at: float
    model: str
    tokens: int


def used(bounds: Sequence[Bound], journal: Sequence[Mapping[str, Any]]) -> float:
    """What was used of the limit that binds: in every window from the first call to the last the one that was used most; their mean."""
    calls = sorted(
        (
            Call(entry["received_at"], entry["model"], entry["usage"]["input_tokens"] + entry["usage"]["output_tokens"])
            for entry in journal
            if entry["usage"]
        ),
        key=lambda call: call.at,
    )
    first, last = calls[0].at, calls[-1].at
    windows = max(1, round((last - first) / WINDOW_S))
    length_s = (last - first) / windows
    return float(
        statistics.mean(
            max(bound.share(calls, first + number * length_s, first + (number + 1) * length_s) for bound in bounds)
            for number in range(windows)
        )
    )
