"""The tracer provider: replay-safe ids and ends, run and step on every span, secrets out before anything is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, NoOpTracer, Status, Tracer
from opentelemetry.util.types import Attributes, AttributeValue
from temporalio.contrib.opentelemetry import ReplaySafeTracerProvider, create_tracer_provider

from telemetry import names
from telemetry.context import bound
from telemetry.log_fields import CONTENT_NAMES
from workflows.contracts.redaction import is_secret_name, redact

SILENCED_SCOPES: Final = ("com.anthropic.sdk.python", "fastapi")
"""Libraries that trace by themselves what we trace already: their spans would double ours, some with content."""

_SPAN_FIELDS: Final = {
    names.LOG_RUN: names.RUN,
    names.LOG_STEP: names.STEP,
    names.LOG_AGENT: names.AGENT,
    names.LOG_TENANT: names.TENANT,
}
_GEN_AI_CONTENT: Final = frozenset({"gen_ai.system_instructions", "gen_ai.tool.definitions", "gen_ai.tool.description"})


class RunSpanProcessor(SpanProcessor):
    """Puts the bound run, step, agent and tenant on every span that starts, the user's own spans included."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Add what is bound and not said already."""
        said = span.attributes or {}
        for field, value in bound().items():
            name = _SPAN_FIELDS.get(field)
            if name is not None and name not in said:
                span.set_attribute(name, value)
        if names.OPERATION in said and names.LOG_RUN in bound():
            span.set_attribute(names.CONVERSATION, bound()[names.LOG_RUN])


class RedactingExporter(SpanExporter):
    """Hands spans on without secrets and without attributes that hold content, whoever wrote them."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export the cleaned spans."""
        return self._exporter.export([_clean(span) for span in spans])

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the exporter."""
        return self._exporter.force_flush(timeout_millis)


class QuietTracerProvider(trace.TracerProvider):
    """Temporal's replay-safe provider, fit to be the global one: libraries whose spans would double ours get none."""

    def __init__(self, provider: ReplaySafeTracerProvider) -> None:
        self._provider = provider

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes | None = None,
    ) -> Tracer:
        """A tracer of this scope; for a silenced scope one that does nothing."""
        if instrumenting_module_name in SILENCED_SCOPES or instrumenting_module_name.partition(".")[0] in SILENCED_SCOPES:
            return NoOpTracer()
        return self._provider.get_tracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)

    def force_flush(self, timeout_ms: int) -> bool:
        """Export what has ended; False when that took longer."""
        return self._provider.force_flush(timeout_ms)

    def shutdown(self) -> None:
        """Export what has ended, and record nothing from now on."""
        self._provider.shutdown()


def tracer_provider(resource: Resource, exporters: Sequence[SpanExporter]) -> QuietTracerProvider:
    """A provider that exports in batches in the background; sampler and batch sizes come from the standard `OTEL_*` variables."""
    provider = create_tracer_provider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(RunSpanProcessor())
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(RedactingExporter(exporter)))
    return QuietTracerProvider(provider)


def become_global(provider: QuietTracerProvider) -> None:
    """Let spans that the user's tools open join our traces, unless the user has a provider already."""
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        trace.set_tracer_provider(provider)


def _clean(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=redact(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_clean_attributes(span.attributes),
        events=[Event(redact(event.name), _clean_attributes(event.attributes), event.timestamp) for event in span.events],
        links=[Link(link.context, _clean_attributes(link.attributes)) for link in span.links],
        kind=span.kind,
        status=Status(span.status.status_code, redact(span.status.description)) if span.status.description else span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _clean_attributes(attributes: Mapping[str, AttributeValue] | None) -> dict[str, AttributeValue]:
    return {name: _clean_value(name, value) for name, value in (attributes or {}).items() if not _holds_content(name)}


def _clean_value(name: str, value: AttributeValue) -> AttributeValue:
    if isinstance(value, str):
        return "[redacted:assigned]" if is_secret_name(name.rpartition(".")[2]) else redact(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [redact(item) if isinstance(item, str) else item for item in value]
    return value


def _holds_content(name: str) -> bool:
    """The conventions' content attributes, and whatever else ends like one of our content fields."""
    return name in _GEN_AI_CONTENT or (name.startswith("gen_ai.") and name.rpartition(".")[2] in CONTENT_NAMES)
