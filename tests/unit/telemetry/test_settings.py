"""The standard OTEL_* variables decide where signals go; without them nothing is loaded and nothing is sent."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from telemetry.exporters import metric_interval_ms, resource_of, target_of
from workflows.contracts.errors import SettingsError


def test_nothing_set_means_nowhere() -> None:
    for signal in ("traces", "metrics"):
        assert not target_of(signal, {"OTEL_SERVICE_NAME": "x", "OTEL_RESOURCE_ATTRIBUTES": "a=b"}).wanted


def test_one_endpoint_serves_both_signals() -> None:
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/", "OTEL_EXPORTER_OTLP_HEADERS": "Api-Key=a%20b, other = 1"}
    traces, metrics = target_of("traces", environ), target_of("metrics", environ)
    assert (traces.endpoint, metrics.endpoint) == ("http://collector:4318/v1/traces", "http://collector:4318/v1/metrics")
    assert traces.headers == {"api-key": "a b", "other": "1"}


def test_a_signals_own_variables_win_and_are_taken_as_they_are() -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://b/otlp",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "k=v",
        "OTEL_METRICS_EXPORTER": "none",
    }
    assert target_of("traces", environ).endpoint == "https://b/otlp"
    assert target_of("traces", environ).headers == {"k": "v"}
    assert not target_of("metrics", environ).wanted


def test_an_exporter_by_name_has_the_standard_default_endpoint() -> None:
    both = target_of("traces", {"OTEL_TRACES_EXPORTER": "otlp,console"})
    assert (both.endpoint, both.console) == ("http://localhost:4318/v1/traces", True)
    assert target_of("metrics", {"OTEL_METRICS_EXPORTER": "console"}).endpoint is None


def test_disabled_wins_over_all() -> None:
    assert not target_of("traces", {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}).wanted


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER names 'zipkin': Holdfast exports by otlp or console"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "speaks http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT must be an http"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "nonsense"}, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT must be an http"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(environ: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        target_of("traces", environ)


def test_a_signals_own_protocol_wins_over_the_general_one() -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert target_of("traces", environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}).wanted


def test_the_name_of_the_service_is_the_environments_before_ours() -> None:
    assert resource_of("holdfast-worker", {}).attributes["service.name"] == "holdfast-worker"
    told = resource_of("holdfast-worker", {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=dev"})
    assert (told.attributes["service.name"], told.attributes["deployment.environment"]) == ("shop", "dev")


def test_two_processes_are_two_instances() -> None:
    ids = {resource_of("holdfast-worker", {}).attributes["service.instance.id"] for _ in range(2)}
    assert len(ids) == 2


def test_the_interval_of_metrics_is_a_minute_unless_said() -> None:
    assert metric_interval_ms({}) == 60_000
    assert metric_interval_ms({"OTEL_METRIC_EXPORT_INTERVAL": "250"}) == 250
    assert metric_interval_ms({"OTEL_METRIC_EXPORT_INTERVAL": "often"}) == 60_000


def _in_a_new_process(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_without_otel_variables_no_sdk_is_loaded_and_no_connection_is_made() -> None:
    told = _in_a_new_process("""
        import os, sys, threading
        connects = []
        sys.addaudithook(lambda event, args: connects.append(args) if event in ("socket.connect", "socket.getaddrinfo") else None)
        from decimal import Decimal
        from telemetry.context import bind_run
        from telemetry.setup import open_telemetry
        from telemetry.spans import model_call_span, record_wait, tool_span
        from workflows.contracts.messages import Usage
        telemetry = open_telemetry(service_name="holdfast-worker", environ={})
        with bind_run(run_id="r"), model_call_span(provider="p", model="m") as span, tool_span("t"):
            span.record_usage(Usage(input_tokens=1), Decimal(1))
        record_wait("limits", 1.0)
        assert telemetry.close()
        loaded = [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
        threads = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
        print(loaded, connects, threads, [type(one).__name__ for one in telemetry.interceptors], flush=True)
        os._exit(0)
    """)
    assert told == "[] [] [] ['RunInterceptor']\n"


def test_spans_of_the_users_tools_join_and_those_of_silenced_libraries_do_not() -> None:
    told = _in_a_new_process("""
        import os
        from opentelemetry import trace
        from telemetry.context import bind_run
        from telemetry.setup import open_telemetry
        telemetry = open_telemetry(service_name="w", environ={"OTEL_TRACES_EXPORTER": "console"}, log_level="WARNING")
        import sys
        sys.stderr = sys.stdout
        with bind_run(run_id="r1"):
            for scope in ("shop", "com.anthropic.sdk.python", "fastapi"):
                span = trace.get_tracer(scope).start_span("s")
                print(scope, span.is_recording(), dict(getattr(span, "attributes", {})), flush=True)
        os._exit(0)
    """)
    assert told == "shop True {'holdfast.run': 'r1'}\ncom.anthropic.sdk.python False {}\nfastapi False {}\n"


def test_a_provider_that_the_user_has_set_stays() -> None:
    told = _in_a_new_process("""
        import os
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from telemetry.setup import open_telemetry
        theirs = TracerProvider()
        trace.set_tracer_provider(theirs)
        open_telemetry(service_name="w", environ={"OTEL_TRACES_EXPORTER": "console"}, log_level="WARNING")
        print(trace.get_tracer_provider() is theirs, flush=True)
        os._exit(0)
    """)
    assert told == "True\n"
