"""What one surge came to."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.tellings import Told

WINDOW_S = 20.0
HEAD = ("case", "calls", "429", "limit used", "tellings", "off by s, p95", "told well", "first told well", "urgent p50 s", "normal p50 s")
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
    urgent_p50_s: float
    normal_p50_s: float
    unfinished: int

    def row(self) -> list[object]:
        """As a table shows it."""
        told = [self.told.count, self.told.error_p95_s, self.told.well, self.first_told.well]
        return [self.name, self.calls, self.refused, self.used, *told, self.urgent_p50_s, self.normal_p50_s, self.unfinished]


def used(requests_per_minute: float, tokens_per_minute: float, journal: Sequence[Mapping[str, Any]]) -> float:
    """What was used of the limit that binds: in every window from the first call to the last the one that was used most; their mean."""
    calls = sorted(
        (entry["received_at"], entry["usage"]["input_tokens"] + entry["usage"]["output_tokens"]) for entry in journal if entry["usage"]
    )
    first, last = calls[0][0], calls[-1][0]
    windows = max(1, round((last - first) / WINDOW_S))
    length_s = (last - first) / windows
    shares = []
    for number in range(windows):
        inside = [tokens for at, tokens in calls if first + number * length_s <= at < first + (number + 1) * length_s]
        minutes = length_s / 60
        shares.append(max(len(inside) / (requests_per_minute * minutes), sum(inside) / (tokens_per_minute * minutes)))
    return float(statistics.mean(shares))
