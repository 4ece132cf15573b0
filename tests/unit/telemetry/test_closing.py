"""A process that ends sends what it has, but never waits long for a collector that does not answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from telemetry import signals
from telemetry.setup import open_telemetry
from telemetry.spans import tool_span


@pytest.fixture
def silent_collector() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def absent_collector() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["silent_collector", "absent_collector"])
def test_closing_gives_up_in_time_and_says_so(kind: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{request.getfixturevalue(kind)}/v1/traces"}
    telemetry = open_telemetry(service_name="test", log_format="json", environ=environ, become_global=False)
    with tool_span("refund"):
        pass
    started = time.monotonic()
    assert telemetry.close(timeout_s=0.5) is False
    assert 0.4 < time.monotonic() - started < 3
    assert "telemetry.flush_incomplete" in capsys.readouterr().err
    assert telemetry.close() is True  # the second time there is nothing left to do


def test_closed_telemetry_records_nothing_and_leaves_a_successor_alone() -> None:
    environ = {"OTEL_TRACES_EXPORTER": "console"}
    first = open_telemetry(service_name="test", log_format="json", environ=environ, become_global=False)
    second = open_telemetry(service_name="test", log_format="json", environ=environ, become_global=False)
    first.close()
    assert signals.signals().tracer is not None
    second.close()
    assert signals.signals() is signals.OFF
