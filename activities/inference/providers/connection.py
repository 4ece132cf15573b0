"""What both adapters need of HTTP: time limits, the transport, and the reading of a streamed answer."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx2

from activities.inference.providers import failures
from activities.inference.providers.event_stream import Event, EventDecoder
from activities.inference.providers.protocol import Progress
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import ModelResponse

CONNECT_TIMEOUT_S = 5.0
POOL_TIMEOUT_S = 10.0
SILENCE_TIMEOUT_S = 600.0
"""The last net under a dead connection; the activity notices a silent stream much earlier and cancels."""
KEEPALIVE_S = 30.0
IDEMPOTENCY_HEADER = "Idempotency-Key"
SIMULATED_HEADER = "x-simulated"

_HEADER_SAFE = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"


def timeouts() -> httpx2.Timeout:
    """Every limit explicit; how long a whole call may take is the activity's to say."""
    return httpx2.Timeout(connect=CONNECT_TIMEOUT_S, read=SILENCE_TIMEOUT_S, write=SILENCE_TIMEOUT_S, pool=POOL_TIMEOUT_S)


def client_options(base_url: str | None) -> dict[str, Any]:
    """Options for an SDK's HTTP client. A proxy from the environment is left out for servers on this machine."""
    return {
        "timeout": timeouts(),
        "limits": httpx2.Limits(max_connections=1000, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S),
        "trust_env": not is_loopback(base_url),
    }


def is_loopback(base_url: str | None) -> bool:
    """Whether the URL names this machine."""
    host = urlsplit(base_url or "").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def idempotency_header(key: str) -> dict[str, str]:
    """The call's key as a header, percent-encoded where it is not plain ASCII."""
    return {IDEMPOTENCY_HEADER: quote(key, safe=_HEADER_SAFE)}


class Gathering(Protocol):
    """An answer that grows event by event."""

    @property
    def finished(self) -> bool:
        """The model has said why it stopped: the answer is whole."""
        ...

    @property
    def output_chars(self) -> int:
        """Characters of output so far."""
        ...

    def add(self, data: dict[str, Any]) -> None:
        """Take in one event."""
        ...

    def response(self, *, request_id: str | None, simulated: bool) -> ModelResponse:
        """The whole answer."""
        ...


class StreamedError(Exception):
    """An event of the stream was an error; `body` is what it said."""

    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__()
        self.body = body


async def read_stream(provider: str, response: httpx2.Response, gathering: Gathering, on_progress: Callable[[Progress], None]) -> None:
    """Read the answer to its end, or raise `StreamedError`, `StepError` or the transport's own error.

    Once the model has said why it stopped the answer is whole and paid for: a connection that dies after that loses nothing.
    """
    _must_be_stream(provider, response)
    events = 0
    try:
        async for event in _events(response):
            events += 1
            if event.data is not None and not event.data.startswith("[DONE]"):
                _take(provider, gathering, event.data)
            on_progress(Progress(events, gathering.output_chars))
    except httpx2.HTTPError:
        if not gathering.finished:
            raise
    if not gathering.finished:
        raise failures.broke_off(provider, events)


async def _events(response: httpx2.Response) -> AsyncIterator[Event]:
    decoder = EventDecoder()
    async for chunk in response.aiter_bytes():
        for event in decoder.feed(chunk):
            yield event
    for event in decoder.finish():
        yield event


def _take(provider: str, gathering: Gathering, text: str) -> None:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise failures.unreadable(provider, "an event is not JSON") from error
    if failures.error_in(data):
        raise StreamedError(data)
    try:
        gathering.add(data)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise failures.unreadable(provider, f"an event has another shape ({type(error).__name__})") from error


def _must_be_stream(provider: str, response: httpx2.Response) -> None:
    kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind in ("text/html", "application/json"):
        raise StepError(
            f"{provider} answered with {kind} where an event stream was asked for: is the base URL right, and does the server stream?",
            failure_class=FailureClass.CALLER,
            code="not_a_stream",
        )


def is_simulated(response: httpx2.Response) -> bool:
    """Whether the answer says of itself that no model is behind it."""
    return bool(response.headers.get(SIMULATED_HEADER) == "1")
