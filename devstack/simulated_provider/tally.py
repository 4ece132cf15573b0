"""How much of a limit was used, how often it refused, and how much it would have let through."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Tally:
    """The count of one limit. Times are those of the limiter's clock."""

    used: float = 0.0
    """Requests, tokens or calls that passed; tokens as they were in the end."""
    refused: int = 0
    first_at: float | None = None
    last_at: float = 0.0
    _rates: list[tuple[float, float]] = field(default_factory=list)
    """From when on which rate per minute was in force."""

    def admitted(self, now: float, per_minute: float, amount: float) -> None:
        """Count what was let in."""
        if self.first_at is None:
            self.first_at = now
            self._rates = [(now, per_minute)]
        self.last_at = now
        self.used += amount

    def changed(self, now: float, per_minute: float) -> None:
        """Another rate is in force."""
        if self._rates:
            self._rates.append((now, per_minute))

    @property
    def allowed(self) -> float:
        """The rate times the time from the first to the last request that was let in, by the rates that were in force."""
        ends = [at for at, _ in self._rates[1:]] + [self.last_at]
        spans = zip(self._rates, ends, strict=True)
        return sum(max(0.0, min(end, self.last_at) - at) / 60 * rate for (at, rate), end in spans)

    def report(self) -> dict[str, object]:
        """The count as plain values. For calls at once `allowed` means nothing."""
        return {
            "used": self.used,
            "refused": self.refused,
            "per_minute": self._rates[-1][1] if self._rates else None,
            "seconds": self.last_at - self.first_at if self.first_at is not None else 0.0,
            "allowed": self.allowed,
        }
