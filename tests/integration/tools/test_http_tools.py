"""HTTP tools against a real server on the loopback interface."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from tests.integration.tools.desk import Desk
from workflows.contracts.agents import Effect, HttpCall, ToolKind, ToolSpec
from workflows.contracts.errors import FailureClass, StepError

ENVIRON = {"SHOP_KEY": "very-secret-shop-key"}


@dataclass
class Server:
    """Answers every request as the test says, and remembers it."""

    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    body: bytes = b"ok"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/plain; charset=utf-8"})
    hangs: bool = False
    breaks: bool = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(
            {
                "method": request.method,
                "path": request.raw_path,
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "body": (await request.read()).decode(),
            }
        )
        if self.hangs:
            await asyncio.sleep(30)
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        await response.write(self.body)
        if self.breaks and request.transport is not None:
            request.transport.abort()
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", made.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


def spec(url: str, effect: Effect = Effect.PURE, timeout_s: float = 5, retries: int = 0, **call: Any) -> ToolSpec:
    parameters = {"type": "object", "properties": {"order_id": {"type": "string"}}}
    return ToolSpec(
        name="shop",
        description="Ask the shop.",
        parameters=parameters,
        kind=ToolKind.HTTP,
        effect=effect,
        timeout_s=timeout_s,
        retries=retries,
        http=HttpCall(url=url, **call),
    )


async def call(desk: Desk, one: ToolSpec, arguments: Any, environ: dict[str, str] | None = None, **options: Any) -> tuple[bool, str]:
    request = await desk.asked(one, arguments)
    outcome = await desk.attempt(desk.worker(environ=ENVIRON if environ is None else environ), request, **options)
    told = await desk.told(request)
    assert told is not None
    return outcome.ok, told.text


async def test_arguments_go_into_the_address_percent_encoded_and_the_rest_into_the_query(desk: Desk, server: Server) -> None:
    one = spec(server.url + "/orders/{order_id}?version=2")
    ok, text = await call(desk, one, {"order_id": "W 1/../ü?x=#", "tags": ["a", "b&c"], "deep": {"n": 1}, "none": None, "yes": True})
    assert (ok, text) == (True, "ok")
    assert server.seen[0]["path"] == "/orders/W%201%2F..%2F%C3%BC%3Fx%3D%23?version=2&tags=a&tags=b%26c&deep=%7B%22n%22%3A+1%7D&yes=true"
    assert "idempotency-key" not in server.seen[0]["headers"]


async def test_with_a_json_body_the_rest_is_sent_as_json_with_the_effects_key(desk: Desk, server: Server) -> None:
    one = spec(server.url + "/orders/{order_id}/notes", Effect.IDEMPOTENT, method="POST", body="json")
    request = await desk.asked(one, {"order_id": "W1", "text": "grüße"})
    assert (await desk.attempt(desk.worker(), request)).ok
    seen = server.seen[0]
    assert (seen["method"], seen["path"], json.loads(seen["body"])) == ("POST", "/orders/W1/notes", {"text": "grüße"})
    assert seen["headers"]["content-type"] == "application/json"
    assert seen["headers"]["idempotency-key"] == f"{request.run_id}:2"


@pytest.mark.parametrize("value", ["..", ".", "", None])
async def test_an_argument_cannot_lead_out_of_its_place_in_the_path(desk: Desk, server: Server, value: str | None) -> None:
    ok, text = await call(desk, spec(server.url + "/orders/{order_id}/view"), {"order_id": value})
    assert not ok
    assert text.startswith("order_id: ")
    assert server.seen == []


async def test_header_secrets_come_from_the_environment_and_are_not_told_when_echoed(desk: Desk, server: Server) -> None:
    server.body = b"you sent very-secret-shop-key"
    one = spec(server.url, headers={"Authorization": "Bearer ${env:SHOP_KEY}"})
    ok, text = await call(desk, one, {})
    assert server.seen[0]["headers"]["authorization"] == "Bearer very-secret-shop-key"
    assert ok
    assert "very-secret" not in text
    assert "[redacted" in text


async def test_a_missing_secret_parks_with_its_name_before_anything_is_sent(desk: Desk, server: Server) -> None:
    one = spec(server.url, Effect.ONCE, headers={"Authorization": "Bearer ${env:SHOP_KEY}"})
    request = await desk.asked(one, {})
    with pytest.raises(StepError, match="needs the environment variable SHOP_KEY, which is not set on this worker: set it") as parked:
        await desk.attempt(desk.worker(), request)
    assert parked.value.failure_class is FailureClass.CALLER
    assert server.seen == []
    assert await desk.row(one, request=request) is None


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_refusal_is_told_with_its_status_and_the_head_of_its_body(desk: Desk, server: Server, effect: Effect) -> None:
    server.status, server.body = 404, b"no such order " + b"x" * 5_000
    ok, text = await call(desk, spec(server.url, effect, retries=3), {})
    assert not ok
    assert text.startswith("GET answered 404: no such order xxx")
    assert len(text) < 600


async def test_a_server_error_of_a_pure_tool_is_retried_as_declared_and_then_told(desk: Desk, server: Server) -> None:
    server.status, server.body = 503, b"later"
    one = spec(server.url, retries=1)
    request, worker = await desk.asked(one, {}), desk.worker()
    with pytest.raises(StepError, match="GET answered 503: later") as retried:
        await desk.attempt(worker, request)
    assert retried.value.failure_class is FailureClass.TRANSIENT
    assert (await desk.attempt(worker, request, attempt=2)).preview == "shop failed: HttpToolError: GET answered 503: later"


@pytest.mark.parametrize("status", [500, 502, 303])
async def test_a_server_error_of_a_once_tool_leaves_the_outcome_unknown(desk: Desk, server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(StepError) as parked:
        await call(desk, spec(server.url, Effect.ONCE, method="POST"), {})
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert len(server.seen) == 1


async def test_a_redirect_is_not_followed_because_it_would_carry_the_secrets_elsewhere(desk: Desk, server: Server) -> None:
    server.status, server.headers = 302, {"Location": "http://127.0.0.1:1/elsewhere"}
    ok, text = await call(desk, spec(server.url), {})
    assert (ok, text) == (False, "GET answered 302, a redirect to another address, which is not followed")


async def test_a_once_tool_whose_server_cannot_be_reached_has_done_nothing(desk: Desk) -> None:
    one = spec("http://127.0.0.1:1/pay", Effect.ONCE, method="POST")
    request = await desk.asked(one, {})
    outcome = await desk.attempt(desk.worker(), request)
    assert outcome.preview.startswith("POST was never sent: ConnectError")
    assert await desk.state(one, request=request) == "failed"


@pytest.mark.parametrize("trouble", ["hangs", "breaks"])
async def test_an_answer_that_does_not_come_or_breaks_off_is_told_or_unknown(desk: Desk, server: Server, trouble: str) -> None:
    setattr(server, trouble, True)
    server.headers["Content-Length"] = "1000"
    ok, text = await call(desk, spec(server.url, timeout_s=0.3), {})
    assert not ok
    assert text.startswith("shop failed: ")
    with pytest.raises(StepError) as parked:
        await call(desk, spec(server.url, Effect.ONCE, timeout_s=0.3), {})
    assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME


async def test_what_is_no_text_is_told_by_kind_and_size(desk: Desk, server: Server) -> None:
    server.body, server.headers = b"\x89PNG\xff" * 10, {"Content-Type": "image/png"}
    assert await call(desk, spec(server.url), {}) == (True, "[50 bytes of image/png that are no text]")


async def test_a_response_over_the_limit_is_cut(desk: Desk, server: Server) -> None:
    server.body = b"x" * (8 * 1024 * 1024 + 10)
    request = await desk.asked(one := spec(server.url), {})
    outcome = await desk.attempt(desk.worker(), request)
    assert (one.kind, outcome.ok) == (ToolKind.HTTP, True)
    assert 8 * 1024 * 1024 < outcome.result_bytes < 8 * 1024 * 1024 + 100
