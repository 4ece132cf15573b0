"""What the inference layer counts beside its calls: waits for limits, refusals, breakers, cached answers, downgrades.

Each function does nothing, and costs next to nothing, while no metrics are wanted. Names given here must be few: that of a budget,
never of the user or tenant whose period it is.
"""

from __future__ import annotations

from telemetry import names
from telemetry.signals import signals
from telemetry.spans import record_wait

LIMITS = "limits"
BUDGET = "budget"


def record_limit_wait(wait_s: float) -> None:
    """Count the seconds that a call waited for its slot, from the first time it was asked for."""
    record_wait(LIMITS, wait_s)


def record_budget_wait(wait_s: float) -> None:
    """Count the seconds that a call waited until its budget had room."""
    record_wait(BUDGET, wait_s)


def record_budget_refusal(budget: str, dimension: str) -> None:
    """Count a call that a budget has no room for; `dimension` is what it lacks: `cost`, `tokens` or `calls`."""
    metrics = signals().metrics
    if metrics is not None:
        metrics.budget_refused({names.BUDGET: budget, names.DIMENSION: dimension})


def record_alert(kind: str) -> None:
    """Count an alert that this worker gave."""
    metrics = signals().metrics
    if metrics is not None:
        metrics.alerted({names.ALERT: kind})


def record_dead_letter(failure_class: str, *, agent: str) -> None:
    """Count a step that was filed as a dead letter."""
    metrics = signals().metrics
    if metrics is not None:
        metrics.dead_letter({names.FAILURE_CLASS: failure_class, names.AGENT: agent})


def record_breaker_change(breaker: str, state: str) -> None:
    """Count a breaker that went over to `open`, `half_open` or `closed`; all workers count the changes that they made or saw."""
    metrics = signals().metrics
    if metrics is not None:
        metrics.breaker_changed({names.BREAKER: breaker, names.BREAKER_STATE: state})


def record_cache(found: str, *, agent: str) -> None:
    """Count a question to the response cache by what it found: `exact`, `semantic`, `stale` or `miss`."""
    metrics = signals().metrics
    if metrics is not None:
        metrics.cache_asked({names.CACHE: found, names.AGENT: agent})


def record_downgrade(tier: str, taken: str, *, agent: str) -> None:
    """Count a call that was served by a lower tier than the one asked for."""
    metrics = signals().metrics
    if metrics is not None:
        metrics.downgraded({names.TIER: tier, names.TIER_TAKEN: taken, names.AGENT: agent})
