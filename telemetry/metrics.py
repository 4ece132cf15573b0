"""Our metrics. Recorded in activities, and for runs in the workflow interceptor, where replay is told apart.

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

        self.runs_started = meter.create_counter(names.RUNS_STARTED, "{run}", "Runs that began.")
        self.runs_ended = meter.create_counter(names.RUNS_ENDED, "{run}", "Runs that ended, by status.")
        self.run_duration = seconds(names.RUN_DURATION, "From start to end of a run, waiting for people included.", RUN_BUCKETS_S)
        self.steps = meter.create_counter(names.STEPS_DONE, "{step}", "Attempts of steps, by activity and outcome.")
        self.failures = meter.create_counter(names.STEP_FAILURES, "{failure}", "Failed attempts, by class and activity.")
        self.model_call_duration = seconds(names.MODEL_CALL_DURATION, "From request to the last token, or to the failure.")
        self.tokens = meter.create_histogram(
            names.TOKEN_USAGE, "{token}", "Tokens of a paid model call.", explicit_bucket_boundaries_advisory=TOKEN_BUCKETS
        )
        self.tool_duration = seconds(names.TOOL_DURATION, "One execution of a tool.")
        self.cost = meter.create_counter(names.COST, "USD", "What the paid model calls cost.")
        self.unknown_cost = meter.create_counter(names.UNKNOWN_COST, "USD", "Charged for calls whose outcome nobody knows.")
        self.waits = seconds(names.WAIT_DURATION, "Waiting for something that is not work, by what is waited for.", RUN_BUCKETS_S)

    def paid(self, usage: Usage, cost_usd: Decimal, attributes: Attributes) -> None:
        """Count the tokens and the cost of one answered call."""
        self.tokens.record(usage.input_tokens, {**attributes, names.TOKEN_TYPE: "input"})
        self.tokens.record(usage.output_tokens, {**attributes, names.TOKEN_TYPE: "output"})
        self.cost.add(float(cost_usd), attributes)
