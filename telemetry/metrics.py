"""Our metrics: recorded in activities, and for runs in the workflow interceptor, on a meter that keeps silent during replay.

Attributes are few and bounded: agent, model, provider, tool, status, failure class. Tenants and runs are in logs, traces and
the database; as attributes of metrics they would multiply the time series without end.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from opentelemetry.metrics import Histogram, Meter
from opentelemetry.util.types import AttributeValue

from telemetry import names
from workflows.contracts.messages import Usage
from workflows.contracts.redaction import redact

DURATION_BUCKETS_S: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""What the GenAI conventions advise for the duration of an operation."""
RUN_BUCKETS_S: Final = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1_800, 3_600, 21_600, 86_400)
TOKEN_BUCKETS: Final = (1, 4, 16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304)

Attributes = dict[str, AttributeValue]


class Metrics:
    """The instruments, made once on a meter."""

    def __init__(self, meter: Meter) -> None:
        def seconds(name: str, description: str, buckets: tuple[float, ...] = DURATION_BUCKETS_S) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=buckets)

        self._runs_started = meter.create_counter(names.RUNS_STARTED, "{run}", "Runs that began.")
        self._runs_ended = meter.create_counter(names.RUNS_ENDED, "{run}", "Runs that ended, by status.")
        self._run_duration = seconds(names.RUN_DURATION, "A run from start to end, waiting for people included.", RUN_BUCKETS_S)
        self._steps = meter.create_counter(names.STEPS_DONE, "{attempt}", "Attempts of steps, by activity and outcome.")
        self._failures = meter.create_counter(names.STEP_FAILURES, "{failure}", "Failed attempts, by class and activity.")
        self._model_calls = seconds(names.MODEL_CALL_DURATION, "From request to the last token, or to the failure.")
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE, "{token}", "Tokens of a paid model call.", explicit_bucket_boundaries_advisory=TOKEN_BUCKETS
        )
        self._tools = seconds(names.TOOL_DURATION, "One execution of a tool.")
        self._cost = meter.create_counter(names.COST, "USD", "What the paid model calls cost.")
        self._unknown_cost = meter.create_counter(names.UNKNOWN_COST, "USD", "Charged for calls whose outcome nobody knows.")
        self._waits = seconds(names.WAIT_DURATION, "Waiting for what is not work, by what is waited for.", RUN_BUCKETS_S)
        self._refusals = meter.create_counter(names.BUDGET_REFUSALS, "{call}", "Calls that a budget had no room for.")
        self._breakers = meter.create_counter(names.BREAKER_CHANGES, "{change}", "Circuit breakers that changed their state.")
        self._cache = meter.create_counter(names.CACHE_LOOKUPS, "{lookup}", "Questions to the response cache, by what it found.")
        self._downgrades = meter.create_counter(names.DOWNGRADES, "{call}", "Calls served by a lower tier than asked for.")
        self._alerts = meter.create_counter(names.ALERTS, "{alert}", "Alerts that were given, by kind.")
        self._dead_letters = meter.create_counter(names.DEAD_LETTERS, "{letter}", "Steps that were filed as dead letters, by class.")

    def run_started(self, agent: str) -> None:
        """A run began."""
        self._runs_started.add(1, _clean({names.AGENT: agent}))

    def run_ended(self, agent: str, status: str, duration_s: float) -> None:
        """A run ended."""
        attributes = _clean({names.AGENT: agent, names.STATUS: status})
        self._runs_ended.add(1, attributes)
        self._run_duration.record(duration_s, attributes)

    def step(self, activity: str, outcome: str) -> None:
        """An attempt of a step ended: `completed`, `failed` or `cancelled`."""
        self._steps.add(1, {names.ACTIVITY: activity, names.OUTCOME: outcome})

    def failure(self, activity: str, failure_class: str, *, retried: bool) -> None:
        """An attempt failed; `retried` says whether Temporal tries again."""
        attributes: Attributes = {names.ACTIVITY: activity, names.FAILURE_CLASS: failure_class, names.RETRIED: retried}
        self._failures.add(1, _clean(attributes))

    def model_call(self, duration_s: float, attributes: Attributes) -> None:
        """A request to a provider ended, answered or not."""
        self._model_calls.record(duration_s, _clean(attributes))

    def paid(self, usage: Usage, cost_usd: Decimal, attributes: Attributes) -> None:
        """A request to a provider was answered and is paid for."""
        cleaned = _clean(attributes)
        self._tokens.record(usage.input_tokens, {**cleaned, names.TOKEN_TYPE: "input"})
        self._tokens.record(usage.output_tokens, {**cleaned, names.TOKEN_TYPE: "output"})
        self._cost.add(float(cost_usd), cleaned)

    def unknown_spend(self, cost_usd: Decimal, agent: str) -> None:
        """A call is charged though nobody knows how it ended."""
        self._unknown_cost.add(float(cost_usd), _clean({names.AGENT: agent}))

    def tool(self, duration_s: float, attributes: Attributes) -> None:
        """An execution of a tool ended."""
        self._tools.record(duration_s, _clean(attributes))

    def wait(self, wait_for: str, wait_s: float) -> None:
        """A wait ended."""
        self._waits.record(wait_s, {names.WAIT_FOR: wait_for})

    def budget_refused(self, attributes: Attributes) -> None:
        """A budget had no room for a call."""
        self._refusals.add(1, _clean(attributes))

    def breaker_changed(self, attributes: Attributes) -> None:
        """A circuit breaker went over into another state."""
        self._breakers.add(1, _clean(attributes))

    def cache_asked(self, attributes: Attributes) -> None:
        """The response cache was asked."""
        self._cache.add(1, _clean(attributes))

    def downgraded(self, attributes: Attributes) -> None:
        """A call went to a lower tier than the one asked for."""
        self._downgrades.add(1, _clean(attributes))

    def alerted(self, attributes: Attributes) -> None:
        """An alert was given."""
        self._alerts.add(1, _clean(attributes))

    def dead_letter(self, attributes: Attributes) -> None:
        """A step that cannot go on was filed."""
        self._dead_letters.add(1, _clean(attributes))


def _clean(attributes: Attributes) -> Attributes:
    return {name: redact(value) if isinstance(value, str) else value for name, value in attributes.items()}
