"""Telemetry of a process, opened once by its entry point: logs always, traces and metrics when `OTEL_*` asks for them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog
from temporalio import client
from temporalio.runtime import OpenTelemetryConfig, Runtime, TelemetryConfig

from telemetry import exporters, names, signals
from telemetry.logs import LogFormat, configure_logs, core_logging
from telemetry.run_interceptor import RunInterceptor
from workflows.contracts.redaction import add_secrets, secrets_in

log = structlog.get_logger("holdfast.telemetry")

FLUSH_TIMEOUT_S: Final = 5.0
"""How long a process that ends waits for its collector; what is not sent by then is lost, and said to be."""


@dataclass(kw_only=True, eq=False)
class Telemetry:
    """What the composition root hands on, and closes at the end."""

    interceptors: Sequence[client.Interceptor]
    """For `Client.connect` only: workers of that client take them from there, and would else have each twice."""
    runtime: Runtime
    """For `Client.connect`: forwards the core's log lines, and its metrics when metrics are wanted."""
    traced: bool = False
    measured: bool = False
    _flushes: Sequence[Callable[[int], bool]] = field(default=(), repr=False)
    _shutdowns: Sequence[Callable[[], None]] = field(default=(), repr=False)
    _installed: signals.Signals = field(default=signals.OFF, repr=False)
    _closed: bool = field(default=False, repr=False)

    def close(self, timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
        """Send what is recorded, for at most `timeout_s` seconds, and stop; True when all went out. Logging goes on."""
        if self._closed:
            return True
        self._closed = True
        if signals.signals() is self._installed:
            signals.install(signals.OFF)
        complete: list[bool] = []
        # The exporters' own time-outs count tries, not the whole: a thread that is left behind bounds the wait.
        flushing = threading.Thread(target=self._flush, args=(timeout_s, complete), name="holdfast-flush", daemon=True)
        started = time.monotonic()
        flushing.start()
        flushing.join(timeout_s)
        done = not flushing.is_alive() and all(complete)
        if not done:
            log.warning(names.EVENT_FLUSH_INCOMPLETE, waited_s=round(time.monotonic() - started, 3))
        return done

    async def aclose(self, timeout_s: float = FLUSH_TIMEOUT_S) -> bool:
        """`close`, without holding the event loop."""
        return await asyncio.to_thread(self.close, timeout_s)

    def _flush(self, timeout_s: float, complete: list[bool]) -> None:
        flushed = [flush(int(timeout_s * 1000)) for flush in self._flushes]
        for shutdown in self._shutdowns:
            shutdown()
        complete += flushed


def open_telemetry(
    *,
    service_name: str,
    log_format: LogFormat = "auto",
    log_level: str = "INFO",
    environ: Mapping[str, str] = os.environ,
    become_global: bool = True,
) -> Telemetry:
    """Configure logging, learn the secrets of the environment, and open the exporters that `OTEL_*` asks for; else nothing more.

    Args:
        environ: decides which signals are wanted and where they go. What the OpenTelemetry SDK reads by itself (sampler, batch
            sizes, time-outs, certificates) it reads from the process's own environment.
        become_global: let spans that the user's tools open join our traces, unless the process has a tracer provider already.

    Raises:
        SettingsError: a variable names what Holdfast cannot do; the message says what it can.
    """
    add_secrets(secrets_in(environ))
    traces, metrics = exporters.target_of("traces", environ), exporters.target_of("metrics", environ)
    add_secrets([value.rpartition(" ")[2] for target in (traces, metrics) for value in target.headers.values()])
    configure_logs(log_format, level=log_level)
    if not (traces.wanted or metrics.wanted):
        return Telemetry(interceptors=(RunInterceptor(),), runtime=Runtime(telemetry=TelemetryConfig(logging=core_logging())))
    opened = _open(service_name, traces, metrics, environ, become_global=become_global)
    log.info(names.EVENT_TELEMETRY_OPENED, traced=opened.traced, measured=opened.measured)
    return opened


def _open(
    service_name: str, traces: exporters.Target, metrics: exporters.Target, environ: Mapping[str, str], *, become_global: bool
) -> Telemetry:
    # Imported here: a process without telemetry loads no SDK of it.
    from opentelemetry.sdk.metrics import MeterProvider
    from temporalio.contrib.opentelemetry import ReplaySafeMeterProvider

    from telemetry import metrics as our_metrics
    from telemetry import trace_interceptor
    from telemetry import traces as our_traces

    resource = exporters.resource_of(service_name, environ)
    interceptors: list[client.Interceptor] = [RunInterceptor()]
    flushes: list[Callable[[int], bool]] = []
    shutdowns: list[Callable[[], None]] = []
    tracer = meters = None
    if traces.wanted:
        provider = our_traces.tracer_provider(resource, exporters.span_exporters(traces))
        tracer = provider.get_tracer(names.SCOPE)
        interceptors.append(trace_interceptor.TraceInterceptor(tracer))
        flushes.append(provider.force_flush)
        shutdowns.append(provider.shutdown)
        if become_global:
            our_traces.become_global(provider)
    if metrics.wanted:
        measuring = MeterProvider(
            exporters.metric_readers(metrics, exporters.metric_interval_ms(environ)), resource, shutdown_on_exit=False
        )
        meters = our_metrics.Metrics(ReplaySafeMeterProvider(measuring).get_meter(names.SCOPE))
        flushes.append(measuring.force_flush)
        shutdowns.append(measuring.shutdown)
    installed = signals.Signals(tracer, meters)
    signals.install(installed)
    return Telemetry(
        interceptors=tuple(interceptors),
        runtime=_runtime(metrics, {name: str(value) for name, value in resource.attributes.items()}, environ),
        traced=traces.wanted,
        measured=metrics.wanted,
        _flushes=flushes,
        _shutdowns=shutdowns,
        _installed=installed,
    )


def _runtime(metrics: exporters.Target, resource: Mapping[str, str], environ: Mapping[str, str]) -> Runtime:
    """Temporal's runtime: its own metrics go to the same collector, under the same name."""
    if metrics.endpoint is None:
        return Runtime(telemetry=TelemetryConfig(logging=core_logging()))
    described = {name: value for name, value in resource.items() if not name.startswith("telemetry.sdk.")}
    return Runtime(
        telemetry=TelemetryConfig(
            logging=core_logging(),
            metrics=OpenTelemetryConfig(
                url=metrics.endpoint,
                headers=metrics.headers,
                http=True,
                metric_periodicity=timedelta(milliseconds=exporters.metric_interval_ms(environ)),
                durations_as_seconds=True,
            ),
            global_tags=described,
            attach_service_name=False,
        )
    )
