"""A loopback OTLP/HTTP collector: takes what exporters send, keeps it decoded and raw, and can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True)
class SeenSpan:
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    attributes: dict[str, Any]
    links: tuple[bytes, ...]
    status: int
    duration_s: float


@dataclass(frozen=True)
class SeenPoint:
    metric: str
    service: str
    attributes: dict[str, Any]
    value: float
    """A sum's value, or a histogram's count."""
    total: float
    """A histogram's sum, or a sum's value."""


@dataclass
class Collector:
    endpoint: str = ""
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def spans(self) -> list[SeenSpan]:
        return [span for path, _, body in self.requests if path == "/v1/traces" for span in _spans(body)]

    @property
    def points(self) -> list[SeenPoint]:
        """All points ever sent; values are cumulative within one service instance."""
        return [point for path, _, body in self.requests if path == "/v1/metrics" for point in _points(body)]

    @property
    def raw(self) -> bytes:
        return b"".join(body for _, _, body in self.requests)

    def named(self, name: str) -> SeenSpan:
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, f"{name}: {len(found)} spans among {sorted(span.name for span in self.spans)}"
        return found[0]

    def last(self, metric: str, **attributes: Any) -> SeenPoint:
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        return [point for point in self.points if point.metric == metric and wanted.items() <= point.attributes.items()][-1]

    async def wait_for(self, condition: Callable[[Collector], object], timeout_s: float = 20.0) -> None:
        async with asyncio.timeout(timeout_s), self._arrived:
            await self._arrived.wait_for(lambda: condition(self))

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        async with self._arrived:
            self.requests.append((request.path, dict(request.headers), body))
            self._arrived.notify_all()
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/{path:.*}", collector._take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield collector
    finally:
        await runner.cleanup()


def _spans(body: bytes) -> Iterator[SeenSpan]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    name=span.name,
                    trace=span.trace_id,
                    id=span.span_id,
                    parent=span.parent_span_id,
                    attributes=_attributes(span.attributes),
                    links=tuple(link.span_id for link in span.links),
                    status=span.status.code,
                    duration_s=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                )


def _points(body: bytes) -> Iterator[SeenPoint]:
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        service = _attributes(resource.resource.attributes).get("service.name", "")
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for number in (*metric.sum.data_points, *metric.gauge.data_points):
                    value = number.as_double or float(number.as_int)
                    yield SeenPoint(metric.name, service, _attributes(number.attributes), value, value)
                for histogram in metric.histogram.data_points:
                    yield SeenPoint(metric.name, service, _attributes(histogram.attributes), histogram.count, histogram.sum)


def _attributes(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None
