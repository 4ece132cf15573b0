"""Where spans and metrics go in this process: nowhere, until `open_telemetry` finds that they are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from opentelemetry.trace import Tracer

from telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Signals:
    """What is switched on; None is off."""

    tracer: Tracer | None = None
    metrics: Metrics | None = None


OFF = Signals()
_current = OFF


def signals() -> Signals:
    """The signals of this process."""
    return _current


def install(new: Signals) -> None:
    """Send all that is recorded from now on there; `OFF` ends it."""
    global _current
    _current = new
