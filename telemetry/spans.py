"""The spans that activities open: one around a model call, one around a tool; their metrics are recorded with them.

Switched off, a block costs a microsecond or two. No span holds content.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractContextManager
from decimal import Decimal
from types import TracebackType
from typing import Self

from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from temporalio.exceptions import ApplicationError, CancelledError

from telemetry import names
from telemetry.failures import brief_of
from telemetry.metrics import Attributes, Metrics
from telemetry.signals import Signals, signals
from workflows.contracts.errors import StepError, ToolError
from workflows.contracts.messages import ModelResponse, Usage


class _TimedSpan:
    """A span and its duration; a failure gives it an error type and a redacted status, and goes on."""

    __slots__ = ("_attributes", "_block", "_name", "_on", "_span", "_started")

    def __init__(self, on: Signals, name: str, attributes: Attributes) -> None:
        self._on = on
        self._name = name
        self._attributes = attributes
        self._block: AbstractContextManager[Span] | None = None
        self._span: Span | None = None
        self._started = 0.0

    kind = SpanKind.INTERNAL

    def __enter__(self) -> Self:
        tracer = self._on.tracer
        if tracer is not None:
            self._block = tracer.start_as_current_span(
                self._name, kind=self.kind, attributes=self._attributes, record_exception=False, set_status_on_exception=False
            )
            self._span = self._block.__enter__()
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._on.metrics is None and self._block is None:
            return
        duration_s = time.perf_counter() - self._started
        error_type = error_type_of(error) if error is not None else None
        if self._on.metrics is not None:
            self._measure(self._on.metrics, duration_s, error_type)
        if self._block is not None:
            if error is not None and self._span is not None:
                mark_failed(self._span, error)
            self._block.__exit__(kind, error, traceback)

    def _measure(self, metrics: Metrics, duration_s: float, error_type: str | None) -> None:
        raise NotImplementedError


class ModelCallSpan(_TimedSpan):
    """The block around one request to a provider; made by `model_call_span`."""

    __slots__ = ("_measured",)

    kind = SpanKind.CLIENT

    def __init__(self, on: Signals, name: str, attributes: Attributes, measured: Attributes) -> None:
        super().__init__(on, name, attributes)
        self._measured = measured

    def record_usage(self, usage: Usage, cost_usd: Decimal, *, response: ModelResponse | None = None) -> None:
        """Say what the answered call used and cost: once per call that was paid now, never for an answer found again."""
        if response is not None:
            self._measured[names.RESPONSE_MODEL] = response.model
        if self._on.metrics is not None:
            self._on.metrics.paid(usage, cost_usd, self._measured)
        if self._span is None:
            return
        found: Attributes = {
            names.INPUT_TOKENS: usage.input_tokens,
            names.OUTPUT_TOKENS: usage.output_tokens,
            names.COST_USD: float(cost_usd),
        }
        if usage.cached_input_tokens:
            found[names.CACHED_INPUT_TOKENS] = usage.cached_input_tokens
        if usage.cache_write_tokens:
            found[names.CACHE_WRITE_TOKENS] = usage.cache_write_tokens
        self._span.set_attributes(found | _described(response))

    def _measure(self, metrics: Metrics, duration_s: float, error_type: str | None) -> None:
        failed: Attributes = {names.ERROR_TYPE: error_type} if error_type else {}
        metrics.model_call(duration_s, self._measured | failed)


class ToolSpan(_TimedSpan):
    """The block around one execution of a tool; made by `tool_span`."""

    __slots__ = ("_outcome",)

    def __init__(self, on: Signals, name: str, attributes: Attributes) -> None:
        super().__init__(on, name, attributes)
        self._outcome = "ok"

    def record_outcome(self, *, ok: bool) -> None:
        """Say whether the tool gave a result, or a failure that is told to the model."""
        self._outcome = "ok" if ok else "error"
        if self._span is not None:
            self._span.set_attribute(names.TOOL_OUTCOME, self._outcome)

    def _measure(self, metrics: Metrics, duration_s: float, error_type: str | None) -> None:
        measured: Attributes = {names.TOOL: self._attributes[names.TOOL]}
        if error_type:
            measured |= {names.TOOL_OUTCOME: "error", names.ERROR_TYPE: error_type}
        else:
            measured[names.TOOL_OUTCOME] = self._outcome
        metrics.tool(duration_s, measured)


def model_call_span(
    *, provider: str, model: str, agent: str | None = None, max_output_tokens: int | None = None, tier: str | None = None
) -> ModelCallSpan:
    """Trace and time one request to a provider, by the GenAI conventions: `with model_call_span(…) as span: …`.

    `tier` is what the agent asked for; tokens and cost are counted by it.
    """
    measured: Attributes = {names.OPERATION: names.CHAT, names.PROVIDER: provider, names.REQUEST_MODEL: model}
    if agent is not None:
        measured[names.AGENT] = agent
    if tier is not None:
        measured[names.TIER] = tier
    told = measured | {names.REQUEST_MAX_TOKENS: max_output_tokens} if max_output_tokens is not None else dict(measured)
    return ModelCallSpan(signals(), f"{names.CHAT} {model}", told, measured)


def record_batch_answer(response: ModelResponse, cost_usd: Decimal, *, provider: str, model: str, agent: str, tier: str) -> None:
    """Count the tokens and the cost of an answer that came with a batch: it took hours, so it is no measure of a request's time."""
    metrics = signals().metrics
    if metrics is not None:
        measured: Attributes = {names.OPERATION: names.CHAT, names.PROVIDER: provider, names.REQUEST_MODEL: model}
        told = {names.RESPONSE_MODEL: response.model, names.AGENT: agent, names.TIER: tier}
        metrics.paid(response.usage, cost_usd, measured | told)


def tool_span(name: str, *, call_id: str | None = None, tool_type: str = "function") -> ToolSpan:
    """Trace and time one execution of a tool: `with tool_span(name, call_id=…) as span: …`."""
    attributes: Attributes = {names.OPERATION: names.EXECUTE_TOOL, names.TOOL: name, names.TOOL_TYPE: tool_type}
    if call_id is not None:
        attributes[names.TOOL_CALL] = call_id
    return ToolSpan(signals(), f"{names.EXECUTE_TOOL} {name}", attributes)


def record_wait(wait_for: str, wait_s: float) -> None:
    """Count seconds of waiting, by what was waited for: `worker`, `limits`, …"""
    metrics = signals().metrics
    if metrics is not None:
        metrics.wait(wait_for, wait_s)


def record_unknown_spend(cost_usd: Decimal, *, agent: str) -> None:
    """Count what is charged for calls whose outcome nobody knows."""
    metrics = signals().metrics
    if metrics is not None and cost_usd:
        metrics.unknown_spend(cost_usd, agent)


def error_type_of(error: BaseException) -> str:
    """A short, bounded name of a failure, for `error.type`: the provider's code, the failure class, or the exception's class."""
    if isinstance(error, StepError):
        return error.code or error.failure_class.value
    if isinstance(error, ApplicationError) and error.type:
        return error.type
    if isinstance(error, asyncio.CancelledError | CancelledError):
        return "cancelled"
    if isinstance(error, ToolError):
        return "tool_error"
    return type(error).__qualname__


def mark_failed(span: Span, error: BaseException) -> None:
    """Give a span its error type and a status that holds no secret."""
    span.set_attribute(names.ERROR_TYPE, error_type_of(error))
    span.set_status(Status(StatusCode.ERROR, brief_of(error)))


def _described(response: ModelResponse | None) -> Attributes:
    if response is None:
        return {}
    found: Attributes = {names.RESPONSE_MODEL: response.model, names.FINISH_REASONS: (response.finish.value,)}
    if response.request_id is not None:
        found[names.RESPONSE_ID] = response.request_id
    if response.simulated:
        found[names.SIMULATED] = True
    return found
