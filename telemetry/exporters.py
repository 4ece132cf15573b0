"""Which signals go where, read from the standard `OTEL_*` variables; nothing is set up when none of them asks for it."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import unquote, urlsplit

from workflows.contracts.errors import SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

Signal = Literal["traces", "metrics"]

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_DEFAULT_ENDPOINT: Final = "http://localhost:4318"
_KINDS: Final = ("otlp", "console")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where one signal goes."""

    endpoint: str | None
    """The OTLP/HTTP address with its path; None when it does not go to a collector."""
    headers: Mapping[str, str]
    """May hold keys: not for logs."""
    console: bool

    @property
    def wanted(self) -> bool:
        """Whether the signal goes anywhere."""
        return self.endpoint is not None or self.console


def target_of(signal: Signal, environ: Mapping[str, str]) -> Target:
    """Read where a signal goes.

    Raises:
        SettingsError: a variable names an exporter or protocol that Holdfast does not speak, or an address that is none.
    """
    nowhere = Target(endpoint=None, headers={}, console=False)
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return nowhere
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    own = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    named = environ.get(variable, "").strip().lower()
    if not named:
        named = "otlp" if environ.get(own) or environ.get(_ENDPOINT) else "none"
    kinds = [kind.strip() for kind in named.split(",") if kind.strip() not in ("", "none")]
    for kind in kinds:
        if kind not in _KINDS:
            raise SettingsError(f"{variable} names {kind!r}: Holdfast exports by {' or '.join(_KINDS)}; set one of them, or none.")
    if "otlp" not in kinds:
        return Target(endpoint=None, headers={}, console="console" in kinds)
    _check_protocol(signal, environ)
    endpoint = environ.get(own) or f"{(environ.get(_ENDPOINT) or _DEFAULT_ENDPOINT).rstrip('/')}/v1/{signal}"
    if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
        raise SettingsError(f"{own if environ.get(own) else _ENDPOINT} must be an http:// or https:// address.")
    return Target(endpoint=endpoint, headers=_headers(signal, environ), console="console" in kinds)


def resource_of(service_name: str, environ: Mapping[str, str]) -> Resource:
    """Who speaks. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over the given name."""
    from opentelemetry.sdk.resources import Resource

    described = environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    given = {name.strip(): unquote(value.strip()) for name, _, value in (pair.partition("=") for pair in described.split(",")) if value}
    if environ.get("OTEL_SERVICE_NAME"):
        given["service.name"] = environ["OTEL_SERVICE_NAME"]
    ours: dict[str, str | int] = {
        "service.name": service_name,
        # Without it, two workers would write to one time series.
        "service.instance.id": uuid.uuid4().hex,
        "host.name": socket.gethostname(),
        "process.pid": os.getpid(),
    }
    return Resource.create({**ours, **given})


def span_exporters(target: Target) -> list[SpanExporter]:
    """The exporters of spans; time-outs, certificates and compression come from the standard variables."""
    exporters: list[SpanExporter] = []
    if target.endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporters.append(OTLPSpanExporter(endpoint=target.endpoint, headers=dict(target.headers)))
    if target.console:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        exporters.append(ConsoleSpanExporter(out=sys.stderr))
    return exporters


def metric_interval_ms(environ: Mapping[str, str]) -> int:
    """How often metrics are sent: `OTEL_METRIC_EXPORT_INTERVAL`, or once a minute."""
    told = environ.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
    return int(told) if told.isdecimal() and int(told) > 0 else 60_000


def metric_readers(target: Target, interval_ms: int) -> list[MetricReader]:
    """The readers of metrics, each with its exporter."""
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter, PeriodicExportingMetricReader

    exporters: list[MetricExporter] = []
    if target.endpoint is not None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        exporters.append(OTLPMetricExporter(endpoint=target.endpoint, headers=dict(target.headers)))
    if target.console:
        exporters.append(ConsoleMetricExporter(out=sys.stderr))
    return [PeriodicExportingMetricReader(exporter, export_interval_millis=interval_ms) for exporter in exporters]


def _check_protocol(signal: Signal, environ: Mapping[str, str]) -> None:
    for variable in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        protocol = environ.get(variable)
        if protocol:
            if protocol != "http/protobuf":
                raise SettingsError(
                    f"{variable} is {protocol!r}: Holdfast speaks http/protobuf; point the endpoint at the collector's HTTP port (4318)."
                )
            return


def _headers(signal: Signal, environ: Mapping[str, str]) -> dict[str, str]:
    told = environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_HEADERS") or environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    pairs = (pair.partition("=") for pair in told.split(","))
    return {name.strip().lower(): unquote(value.strip()) for name, _, value in pairs if name.strip()}
