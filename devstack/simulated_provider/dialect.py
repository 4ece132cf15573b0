"""What the two dialects have in common: a request understood, an answer planned, and the way it is put on the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from devstack.simulated_provider.faults import Fault
from devstack.simulated_provider.gauges import Gauge
from devstack.simulated_provider.limits import Verdict
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from workflows.contracts.messages import FinishReason, ToolCall, Usage

PIECE_CHARS = 24
"""Characters that one event of a stream carries: about six tokens, as busy providers send them."""


class BadRequestError(Exception):
    """The request does not follow the dialect."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A request as the endpoint understood it."""

    request: SimulatedRequest
    stream: bool
    max_output_tokens: int | None
    include_usage: bool = True
    breakpoints: tuple[int, ...] | None = None
    """Where the prompt cache is asked to remember: 0 after the tools, 1 after the instructions, then one a message. None: anywhere."""
    bills_cache_writes: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """An answer before it is put on the wire. Arguments of calls are text, which need not be valid JSON."""

    request_id: str
    model: str
    text: str
    calls: tuple[ToolCall, ...]
    finish: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as the real API sends it."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """One API's ways of reading and writing. Frames are complete server-sent events."""

    name: str
    request_id_header: str

    def key_of(self, headers: Any) -> str | None:
        """The API key that the request carries."""
        ...

    def parse(self, body: dict[str, Any]) -> Incoming:
        """Understand a request, or raise `BadRequestError`."""
        ...

    def body(self, planned: Planned) -> dict[str, Any]:
        """The answer as one document."""
        ...

    def frames(self, planned: Planned, include_usage: bool) -> list[bytes]:
        """The answer as the frames of a stream."""
        ...

    def error(self, fault: Fault, key: str) -> ErrorReply:
        """The error that a fault asks for; a refused key is told masked, as the real one does."""
        ...

    def bad_request(self, message: str) -> ErrorReply:
        """The refusal of a request that cannot be understood."""
        ...

    def rate_limited(self, verdict: Verdict, model: str) -> ErrorReply:
        """The refusal of a request that is over a limit; the caller adds the time to wait."""
        ...

    def error_frame(self, fault: Fault) -> bytes:
        """An error in mid-stream, after HTTP 200."""
        ...

    def limit_headers(self, buckets: dict[str, Gauge]) -> dict[str, str]:
        """The headers that tell what is left of each limit."""
        ...


def pieces(text: str) -> list[str]:
    """A text cut into what one event carries each."""
    return [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)]


def frame(data: dict[str, Any], event: str | None = None) -> bytes:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def masked(key: str) -> str:
    """A key as error messages show it: its beginning, stars, its end."""
    return f"{key[:7]}{'*' * max(4, len(key) - 11)}{key[-4:]}"


def plan_calls(answer: SimulatedAnswer, request_id: str) -> tuple[ToolCall, ...]:
    """The answer's tool calls with ids that no other request has."""
    return tuple(
        ToolCall(call_id=f"{request_id.replace('req', 'call')}-{number}", name=name, arguments=json.dumps(arguments))
        for number, (name, arguments) in enumerate(answer.calls)
    )


def text_of(content: Any) -> str:
    """The text of a message's content: a string, a list of text parts, or nothing."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content if isinstance(part, dict))
    raise BadRequestError("content must be a string or a list of parts")
