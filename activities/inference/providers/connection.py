"""What both adapters need of HTTP: time limits, the transport, and the reading of a streamed answer."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
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
DRAIN_S = 0.1
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
    told = _Telling(provider, gathering, on_progress)
    decoder = EventDecoder()
    chunks = response.aiter_bytes()
    try:
        async for chunk in chunks:
            if told.tell(decoder.feed(chunk)):
                await _drain(chunks)
                return
        told.tell(decoder.finish())
    except httpx2.HTTPError:
        if not gathering.finished:
            raise
    if not gathering.finished:
        raise failures.broke_off(provider, told.events)


@dataclass(slots=True)
class _Telling:
    """Hands events on, and counts them."""

    provider: str
    gathering: Gathering
    on_progress: Callable[[Progress], None]
    events: int = 0

    def tell(self, events: list[Event]) -> bool:
        """Whether the last of these events was the stream's own end mark, on an answer that is whole."""
        ended = False
        for event in events:
            self.events += 1
            ended = event.name == "message_stop" or (event.data or "").startswith("[DONE]")
            if event.data is not None and not event.data.startswith("[DONE]"):
                _take(self.provider, self.gathering, event.data)
            self.on_progress(Progress(self.events, self.gathering.output_chars))
        return ended and self.gathering.finished


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read the few bytes that end the body, so that the connection can be used again; a server that never ends it is left."""
    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in chunks:
                pass
    except (TimeoutError, httpx2.HTTPError):
        pass


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
            spend_unknown=kind == "application/json",
        )


def is_simulated(response: httpx2.Response) -> bool:
    """Whether the answer says of itself that no model is behind it."""
    return bool(response.headers.get(SIMULATED_HEADER) == "1")
