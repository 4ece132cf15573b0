"""A collector, telemetry that sends to it, and a client with its interceptors."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from devstack.stack import RunningStack
from telemetry.logs import _Handler
from telemetry.setup import Telemetry, open_telemetry
from tests.integration.telemetry.agents import PLANTED
from tests.integration.telemetry.collector import Collector, running_collector


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with running_collector() as running:
        yield running


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    sys.excepthook = sys.__excepthook__
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)


@pytest.fixture
async def telemetry(collector: Collector) -> AsyncIterator[Telemetry]:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=abc%20def",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "PLANTED_API_KEY": f"known-{PLANTED}",
    }
    opened = open_telemetry(service_name="holdfast-test", log_format="json", environ=environ, become_global=False)
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
async def traced_client(stack: RunningStack, telemetry: Telemetry) -> Client:
    return await Client.connect(
        stack.temporal_address,
        namespace=stack.namespace,
        data_converter=pydantic_data_converter,
        interceptors=telemetry.interceptors,
        runtime=telemetry.runtime,
    )
