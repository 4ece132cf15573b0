"""The one list of what telemetry calls things: attributes of spans and metrics, metrics, log fields, events.

`gen_ai.*` and `error.type` are OpenTelemetry's semantic conventions for generative AI; `temporal*` are what Temporal's own
SDKs set; `holdfast.*` is ours. None holds content: no prompt, answer, argument or result has a name here.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "holdfast"
"""The instrumentation scope of all our spans and metrics."""

# Attributes.
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_ID: Final = "gen_ai.response.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_creation.input_tokens"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105 - a name
AGENT: Final = "gen_ai.agent.name"
AGENT_VERSION: Final = "gen_ai.agent.version"
CONVERSATION: Final = "gen_ai.conversation.id"
TOOL: Final = "gen_ai.tool.name"
TOOL_CALL: Final = "gen_ai.tool.call.id"
TOOL_TYPE: Final = "gen_ai.tool.type"
ERROR_TYPE: Final = "error.type"
WORKFLOW_ID: Final = "temporalWorkflowID"
WORKFLOW_RUN_ID: Final = "temporalRunID"
ACTIVITY_ID: Final = "temporalActivityID"
RUN: Final = "holdfast.run"
STEP: Final = "holdfast.step"
TENANT: Final = "holdfast.tenant"
ATTEMPT: Final = "holdfast.attempt"
STATUS: Final = "holdfast.run.status"
STEPS: Final = "holdfast.run.steps"
COST_USD: Final = "holdfast.cost_usd"
SIMULATED: Final = "holdfast.simulated"
TOOL_OUTCOME: Final = "holdfast.tool.outcome"
ACTIVITY: Final = "holdfast.activity"
OUTCOME: Final = "holdfast.outcome"
FAILURE_CLASS: Final = "holdfast.failure_class"
RETRIED: Final = "holdfast.retried"
WAIT_FOR: Final = "holdfast.wait_for"
TIER: Final = "holdfast.tier"
TIER_TAKEN: Final = "holdfast.tier_taken"
BUDGET: Final = "holdfast.budget"
DIMENSION: Final = "holdfast.dimension"
BREAKER: Final = "holdfast.breaker"
BREAKER_STATE: Final = "holdfast.breaker_state"
CACHE: Final = "holdfast.cache"
ALERT: Final = "holdfast.alert"

# Values of gen_ai.operation.name.
CHAT: Final = "chat"
EXECUTE_TOOL: Final = "execute_tool"
INVOKE_AGENT: Final = "invoke_agent"

# Metrics.
MODEL_CALL_DURATION: Final = "gen_ai.client.operation.duration"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105 - a name
RUNS_STARTED: Final = "holdfast.runs.started"
RUNS_ENDED: Final = "holdfast.runs.ended"
RUN_DURATION: Final = "holdfast.run.duration"
STEPS_DONE: Final = "holdfast.steps"
STEP_FAILURES: Final = "holdfast.step.failures"
TOOL_DURATION: Final = "holdfast.tool.duration"
COST: Final = "holdfast.cost"
UNKNOWN_COST: Final = "holdfast.cost.unknown"
WAIT_DURATION: Final = "holdfast.wait.duration"
BUDGET_REFUSALS: Final = "holdfast.budget.refusals"
BREAKER_CHANGES: Final = "holdfast.breaker.changes"
CACHE_LOOKUPS: Final = "holdfast.cache.lookups"
DOWNGRADES: Final = "holdfast.downgrades"
ALERTS: Final = "holdfast.alerts"
DEAD_LETTERS: Final = "holdfast.dead_letters"

# Log fields that every line of a run carries.
LOG_RUN: Final = "run"
LOG_STEP: Final = "step"
LOG_AGENT: Final = "agent"
LOG_TENANT: Final = "tenant"
LOG_TRACE: Final = "trace_id"
LOG_SPAN: Final = "span_id"

# Events that telemetry logs by itself.
EVENT_RUN_STARTED: Final = "run.started"
EVENT_RUN_CONTINUED: Final = "run.continued"
EVENT_RUN_ENDED: Final = "run.ended"
EVENT_TELEMETRY_OPENED: Final = "telemetry.opened"
EVENT_FLUSH_INCOMPLETE: Final = "telemetry.flush_incomplete"
EVENT_CRASHED: Final = "process.crashed"
