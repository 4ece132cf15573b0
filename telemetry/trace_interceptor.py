"""One trace from the client's start through the workflow and its activities to the provider.

Temporal's own interceptor opens a span for each command and query and needs the process-wide provider; this one keeps to
what a person reads: the start, the run (`invoke_agent`), each attempt of a step, each human decision. Its parts for replay
(ids from the workflow's seed, spans that do not end while history is replayed) are Temporal's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn

import opentelemetry.context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from temporalio import activity, client, worker, workflow
from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadConverter
from temporalio.exceptions import is_cancelled_exception

from telemetry import names
from telemetry.metrics import Attributes
from telemetry.run_interceptor import is_outcome, run_of
from telemetry.spans import mark_failed
from workflows.contracts.runs import RunInput, RunOutcome, RunStatus

HEADER: Final = "_tracer-data"
"""The header under which Temporal's SDKs pass trace contexts on, so that other clients join our traces."""

Headers = Mapping[str, Payload]

_propagator: Final = TraceContextTextMapPropagator()
# Loaded here, because inside the workflow sandbox the first use could not read the entry points it looks for.
opentelemetry.context.get_current()


class TraceInterceptor(client.Interceptor, worker.Interceptor):
    """Give it to `Client.connect`; workers of that client take it from there.

    Args:
        tracer: any tracer for a client that only asks; for workers one of `telemetry.traces.tracer_provider`, whose ids are
            the same when a history is replayed.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def intercept_client(self, next: client.OutboundInterceptor) -> client.OutboundInterceptor:  # noqa: A002 - the SDK's name
        """Trace what the client asks for."""
        return _ClientOutbound(next, self._tracer)

    def intercept_activity(self, next: worker.ActivityInboundInterceptor) -> worker.ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Trace each attempt."""
        return _ActivityInbound(next, self._tracer)

    def workflow_interceptor_class(self, input: worker.WorkflowInterceptorClassInput) -> type[worker.WorkflowInboundInterceptor]:  # noqa: A002 - the SDK's name
        """Trace the run; the class is made here because the SDK creates one object for each workflow, without arguments."""

        class Inbound(_WorkflowInbound):
            tracer = self._tracer

        return Inbound


class _ClientOutbound(client.OutboundInterceptor):
    def __init__(self, next: client.OutboundInterceptor, tracer: Tracer) -> None:  # noqa: A002 - the SDK's name
        super().__init__(next)
        self._tracer = tracer

    async def start_workflow(self, input: client.StartWorkflowInput) -> client.WorkflowHandle[Any, Any]:  # noqa: A002 - the SDK's name
        with self._span(f"StartWorkflow:{input.workflow}", input.id, _run_attributes(run_of(input.args))):
            input.headers = injected(input.headers)
            return await super().start_workflow(input)

    async def signal_workflow(self, input: client.SignalWorkflowInput) -> None:  # noqa: A002 - the SDK's name
        with self._span(f"SignalWorkflow:{input.signal}", input.id):
            input.headers = injected(input.headers)
            await super().signal_workflow(input)

    async def start_workflow_update(self, input: client.StartWorkflowUpdateInput) -> client.WorkflowUpdateHandle[Any]:  # noqa: A002 - the SDK's name
        with self._span(f"StartWorkflowUpdate:{input.update}", input.id):
            input.headers = injected(input.headers)
            return await super().start_workflow_update(input)

    async def start_update_with_start_workflow(
        self,
        input: client.StartWorkflowUpdateWithStartInput,  # noqa: A002 - the SDK's name
    ) -> client.WorkflowUpdateHandle[Any]:
        start, update = input.start_workflow_input, input.update_workflow_input
        with self._span(f"StartUpdateWithStartWorkflow:{start.workflow}", start.id):
            start.headers, update.headers = injected(start.headers), injected(update.headers)
            return await super().start_update_with_start_workflow(input)

    @contextmanager
    def _span(self, name: str, workflow_id: str, attributes: Attributes | None = None) -> Iterator[None]:
        told: Attributes = {names.WORKFLOW_ID: workflow_id, names.RUN: workflow_id, **(attributes or {})}
        with self._tracer.start_as_current_span(
            name, kind=SpanKind.CLIENT, attributes=told, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                mark_failed(span, error)
                raise


class _ActivityInbound(worker.ActivityInboundInterceptor):
    def __init__(self, next: worker.ActivityInboundInterceptor, tracer: Tracer) -> None:  # noqa: A002 - the SDK's name
        super().__init__(next)
        self._tracer = tracer

    async def execute_activity(self, input: worker.ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        info = activity.info()
        told: Attributes = {
            names.WORKFLOW_ID: info.workflow_id or "",
            names.WORKFLOW_RUN_ID: info.workflow_run_id or "",
            names.ACTIVITY_ID: info.activity_id,
            names.ATTEMPT: info.attempt,
        }
        with self._tracer.start_as_current_span(
            f"RunActivity:{info.activity_type}",
            context=extracted(input.headers),
            kind=SpanKind.SERVER,
            attributes=told,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return await self.next.execute_activity(input)
            except (Exception, asyncio.CancelledError) as error:
                mark_failed(span, error)
                raise


class _WorkflowInbound(worker.WorkflowInboundInterceptor):
    tracer: Tracer

    def __init__(self, next: worker.WorkflowInboundInterceptor) -> None:  # noqa: A002 - the SDK's name
        super().__init__(next)
        self.run: SpanContext | None = None

    def init(self, outbound: worker.WorkflowOutboundInterceptor) -> None:
        super().init(_WorkflowOutbound(outbound))

    async def execute_workflow(self, input: worker.ExecuteWorkflowInput) -> Any:  # noqa: A002 - the SDK's name
        given = run_of(input.args)
        name = f"{names.INVOKE_AGENT} {given.agent.name}" if given else f"RunWorkflow:{workflow.info().workflow_type}"
        with self._span(name, extracted(input.headers), SpanKind.INTERNAL, _run_attributes(given)) as span:
            self.run = span.get_span_context()
            outcome = await self.next.execute_workflow(input)
            if is_outcome(outcome):
                _describe_outcome(span, outcome)
            return outcome

    async def handle_signal(self, input: worker.HandleSignalInput) -> None:  # noqa: A002 - the SDK's name
        with self._decision(f"HandleSignal:{input.signal}", input.headers):
            await self.next.handle_signal(input)

    async def handle_update_handler(self, input: worker.HandleUpdateInput) -> Any:  # noqa: A002 - the SDK's name
        with self._decision(f"HandleUpdate:{input.update}", input.headers):
            return await self.next.handle_update_handler(input)

    @contextmanager
    def _decision(self, name: str, headers: Headers) -> Iterator[None]:
        """In the trace of who sent it, linked to the run; in the run's own trace when the sender has none, as the Web UI."""
        sent = HEADER in headers
        context = extracted(headers if sent else workflow.info().headers)
        with self._span(name, context, SpanKind.SERVER, {}, links=[Link(self.run)] if sent and self.run else []):
            yield

    @contextmanager
    def _span(self, name: str, context: Context, kind: SpanKind, attributes: Attributes, links: list[Link] | None = None) -> Iterator[Span]:
        info = workflow.info()
        told: Attributes = {
            names.WORKFLOW_ID: info.workflow_id,
            names.WORKFLOW_RUN_ID: info.run_id,
            names.RUN: info.workflow_id,
            **attributes,
        }
        span = self.tracer.start_span(name, context, kind, told, links)
        ended = True
        with attached(trace.set_span_in_context(span, context)):
            try:
                yield span
            except (Exception, asyncio.CancelledError) as error:
                # A bug fails the workflow task only: Temporal tries again, and the span of that try is the one that ends.
                ended = is_cancelled_exception(error) or workflow.is_failure_exception(error)
                mark_failed(span, error)
                raise
            except workflow.ContinueAsNewError:
                span.set_attribute(names.STATUS, "continued")
                raise
            except GeneratorExit:
                ended = False  # collected with an abandoned workflow, not ended
                raise
            finally:
                if ended and not workflow.unsafe.is_replaying():
                    span.end()


class _WorkflowOutbound(worker.WorkflowOutboundInterceptor):
    def continue_as_new(self, input: worker.ContinueAsNewInput) -> NoReturn:  # noqa: A002 - the SDK's name
        # The next execution stands beside this one under the same start, not below it.
        header = workflow.info().headers.get(HEADER)
        input.headers = {**input.headers, HEADER: header} if header is not None else injected(input.headers)
        super().continue_as_new(input)

    def start_activity(self, input: worker.StartActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002 - the SDK's name
        input.headers = injected(input.headers)
        return super().start_activity(input)

    def start_local_activity(self, input: worker.StartLocalActivityInput) -> workflow.ActivityHandle[Any]:  # noqa: A002 - the SDK's name
        input.headers = injected(input.headers)
        return super().start_local_activity(input)

    async def start_child_workflow(self, input: worker.StartChildWorkflowInput) -> workflow.ChildWorkflowHandle[Any, Any]:  # noqa: A002 - the SDK's name
        input.headers = injected(input.headers)
        return await super().start_child_workflow(input)

    async def signal_child_workflow(self, input: worker.SignalChildWorkflowInput) -> None:  # noqa: A002 - the SDK's name
        input.headers = injected(input.headers)
        await super().signal_child_workflow(input)

    async def signal_external_workflow(self, input: worker.SignalExternalWorkflowInput) -> None:  # noqa: A002 - the SDK's name
        input.headers = injected(input.headers)
        await super().signal_external_workflow(input)


def injected(headers: Headers) -> Headers:
    """The headers with the current trace context, if there is one."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return {**headers, HEADER: PayloadConverter.default.to_payload(carrier)} if carrier else headers


def extracted(headers: Headers) -> Context:
    """The trace context that the headers bring; an empty one when they bring none or nonsense."""
    payload = headers.get(HEADER)
    carrier = PayloadConverter.default.from_payload(payload) if payload is not None else None
    return _propagator.extract(carrier, Context()) if isinstance(carrier, dict) else Context()


@contextmanager
def attached(context: Context) -> Iterator[None]:
    """Make this the current context for a block that may be closed in another `contextvars` context, where it holds nothing."""
    token = opentelemetry.context.attach(context)
    try:
        yield
    finally:
        with suppress(ValueError):
            token.var.reset(token)


def _run_attributes(given: RunInput | None) -> Attributes:
    if given is None:
        return {}
    return {
        names.OPERATION: names.INVOKE_AGENT,
        names.AGENT: given.agent.name,
        names.AGENT_VERSION: given.agent.version,
        names.CONVERSATION: given.run_id,
        names.RUN: given.run_id,
        names.TENANT: given.tenant,
    }


def _describe_outcome(span: Span, outcome: RunOutcome) -> None:
    usage = outcome.totals.usage
    told: Attributes = {
        names.STATUS: outcome.status.value,
        names.STEPS: outcome.totals.steps,
        names.INPUT_TOKENS: usage.input_tokens,
        names.OUTPUT_TOKENS: usage.output_tokens,
        names.COST_USD: float(outcome.totals.cost_usd),
    }
    if outcome.simulated:
        told[names.SIMULATED] = True
    span.set_attributes(told)
    if outcome.status.value == RunStatus.FAILED.value:
        failure_class = outcome.failure.failure_class.value if outcome.failure else "unknown"
        span.set_attribute(names.ERROR_TYPE, failure_class)
        span.set_status(trace.StatusCode.ERROR, failure_class)
