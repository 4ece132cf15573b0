"""The Messages dialect, as api.anthropic.com speaks it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from devstack.simulated_provider.dialect import BadRequestError, ErrorReply, Incoming, Planned, frame, pieces, text_of
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.gauges import Gauge
from devstack.simulated_provider.limits import CONCURRENCY, Verdict
from devstack.simulated_provider.policy import SimulatedRequest
from devstack.simulated_provider.tokens import FIRST_MESSAGE
from workflows.contracts.messages import FinishReason, Message, Role, ToolCall, ToolSchema, Usage

_MOST_BREAKPOINTS = 4
_STOP = {
    FinishReason.STOP: "end_turn",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.REFUSAL: "refusal",
}
# kind -> status, type, message
_ERRORS: dict[FaultKind, tuple[int, str, str]] = {
    FaultKind.RATE_LIMITED: (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    FaultKind.QUOTA: (402, "billing_error", "Your credit balance is too low to access the Anthropic API."),
    FaultKind.BAD_KEY: (401, "authentication_error", "invalid x-api-key"),
    FaultKind.FORBIDDEN: (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    FaultKind.NOT_FOUND: (404, "not_found_error", "model: not found"),
    FaultKind.BAD_REQUEST: (400, "invalid_request_error", "temperature: Extra inputs are not permitted"),
    FaultKind.TOO_LARGE: (413, "request_too_large", "Request exceeds the maximum size"),
    FaultKind.CONTEXT_TOO_LONG: (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    FaultKind.REQUEST_TIMEOUT: (408, "timeout_error", "Request timed out"),
    FaultKind.CONFLICT: (409, "conflict_error", "The request conflicts with another"),
    FaultKind.SERVER_ERROR: (500, "api_error", "Internal server error"),
    FaultKind.UNAVAILABLE: (503, "api_error", "Service unavailable"),
    FaultKind.OVERLOADED: (529, "overloaded_error", "Overloaded"),
    FaultKind.OVERLOADED_IN_STREAM: (200, "overloaded_error", "Overloaded"),
    FaultKind.RATE_LIMITED_IN_STREAM: (200, "rate_limit_error", "This request would exceed your organization's rate limit."),
}


def _error_body(kind: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


class AnthropicDialect:
    """Reads and writes Messages."""

    name = "anthropic"
    request_id_header = "request-id"

    def key_of(self, headers: Any) -> str | None:
        """The key of either header; newer clients send a bearer token."""
        key: str | None = headers.get("x-api-key")
        if key:
            return key
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return token or None if scheme.lower() == "bearer" else None

    def parse(self, body: dict[str, Any]) -> Incoming:
        """Understand a Messages request; `max_tokens` is required here."""
        for required in ("model", "max_tokens", "messages"):
            if not body.get(required):
                raise BadRequestError(f"{required}: Field required")
        messages: list[Message] = []
        breakpoints = _head_breakpoints(body)
        for raw in body["messages"]:
            understood = _messages(raw)
            breakpoints += [FIRST_MESSAGE + len(messages) + at for at in _breakpoints(raw, len(understood))]
            messages += understood
        if len(breakpoints) > _MOST_BREAKPOINTS:
            found = f"Found {len(breakpoints)}."
            raise BadRequestError(f"A maximum of {_MOST_BREAKPOINTS} blocks with cache_control may be provided. {found}")
        if "cache_control" in body:
            breakpoints.append(FIRST_MESSAGE + len(messages) - 1)
        schema = ((body.get("output_config") or {}).get("format") or {}).get("schema")
        request = SimulatedRequest(
            model=body["model"],
            system=text_of(body.get("system")),
            messages=tuple(messages),
            tools=tuple(_tool(raw) for raw in body.get("tools") or ()),
            output_schema=schema,
        )
        return Incoming(
            request=request,
            stream=bool(body.get("stream")),
            max_output_tokens=body["max_tokens"],
            breakpoints=tuple(breakpoints),
            bills_cache_writes=True,
        )

    def body(self, planned: Planned) -> dict[str, Any]:
        """A `message` object."""
        content: list[dict[str, Any]] = [{"type": "text", "text": planned.text}] if planned.text else []
        content += [{"type": "tool_use", "id": call.call_id, "name": call.name, "input": _parsed(call.arguments)} for call in planned.calls]
        return {**_envelope(planned), "content": content, "stop_reason": _STOP[planned.finish], "usage": _usage(planned.usage)}

    def frames(self, planned: Planned, include_usage: bool) -> list[bytes]:
        """The events from `message_start` to `message_stop`."""
        start = _usage(planned.usage) | {"output_tokens": 1}
        out = [_event("message_start", message={**_envelope(planned), "usage": start}), _event("ping")]
        blocks: list[tuple[dict[str, Any], str, str, str]] = []
        if planned.text:
            blocks.append(({"type": "text", "text": ""}, "text_delta", "text", planned.text))
        for call in planned.calls:
            block = {"type": "tool_use", "id": call.call_id, "name": call.name, "input": {}}
            blocks.append((block, "input_json_delta", "partial_json", call.arguments))
        for index, (block, delta, name, content) in enumerate(blocks):
            out.append(_event("content_block_start", index=index, content_block=block))
            out += [_event("content_block_delta", index=index, delta={"type": delta, name: piece}) for piece in pieces(content)]
            out.append(_event("content_block_stop", index=index))
        stop = {"stop_reason": _STOP[planned.finish], "stop_sequence": None}
        out.append(_event("message_delta", delta=stop, usage={"output_tokens": planned.usage.output_tokens}))
        return [*out, _event("message_stop")]

    def error(self, fault: Fault, key: str) -> ErrorReply:
        """An `error` object with its type."""
        status, kind, message = _ERRORS[fault.kind]
        return ErrorReply(status, _error_body(kind, message))

    def bad_request(self, message: str) -> ErrorReply:
        """HTTP 400 with type `invalid_request_error`."""
        return ErrorReply(400, _error_body("invalid_request_error", message))

    def rate_limited(self, verdict: Verdict, model: str) -> ErrorReply:
        """HTTP 429 with type `rate_limit_error`."""
        what = str(verdict.refused_by).replace("_", " ")
        message = f"This request would exceed the rate limit of {what} per minute for {model}."
        if verdict.refused_by == CONCURRENCY:
            message = "Number of concurrent connections has exceeded your rate limit."
        return ErrorReply(429, _error_body("rate_limit_error", message))

    def error_frame(self, fault: Fault) -> bytes:
        """An `error` event."""
        _, kind, message = _ERRORS[fault.kind]
        return _event("error", error={"type": kind, "message": message})

    def limit_headers(self, buckets: dict[str, Gauge]) -> dict[str, str]:
        """`anthropic-ratelimit-*`; reset times are RFC 3339."""
        headers = {}
        now = datetime.now(UTC)
        for kind, bucket in buckets.items():
            prefix = f"anthropic-ratelimit-{kind.replace('_', '-')}"
            headers[f"{prefix}-limit"] = str(int(bucket.per_minute))
            headers[f"{prefix}-remaining"] = str(max(0, int(bucket.level)))
            headers[f"{prefix}-reset"] = (now + timedelta(seconds=bucket.reset_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        return headers


def _event(kind: str, **fields: Any) -> bytes:
    return frame({"type": kind, **fields}, event=kind)


def _envelope(planned: Planned) -> dict[str, Any]:
    return {
        "id": planned.request_id.replace("req", "msg"),
        "type": "message",
        "role": "assistant",
        "model": planned.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    }


def _parsed(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return {}


def _head_breakpoints(body: dict[str, Any]) -> list[int]:
    """One entry a mark at tools (0) or instructions (1)."""
    system = body["system"] if isinstance(body.get("system"), list) else ()
    return [at for at, parts in enumerate((body.get("tools") or (), system)) for part in parts if "cache_control" in part]


def _breakpoints(raw: Any, understood: int) -> list[int]:
    """Which of the messages that a wire message was understood as end at a mark: results come first, one each, all else is the last."""
    content = raw.get("content") if isinstance(raw, dict) else None
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    results = [part for part in parts if part.get("type") == "tool_result"]
    places = [(at, part) for at, part in enumerate(results)]
    places += [(understood - 1, part) for part in parts if part.get("type") != "tool_result"]
    return [at for at, part in places if "cache_control" in part]


def _messages(raw: Any) -> list[Message]:
    """One wire message as ours: a user message may hold several tool results and text besides."""
    try:
        role = Role(raw["role"])
        if role not in (Role.USER, Role.ASSISTANT):
            raise BadRequestError(f'messages: Unexpected role "{role}"')
        content = raw["content"]
        if isinstance(content, str):
            return [Message(role=role, text=content)]
        texts = "".join(part["text"] for part in content if part["type"] == "text")
        calls = tuple(
            ToolCall(call_id=part["id"], name=part["name"], arguments=json.dumps(part["input"]))
            for part in content
            if part["type"] == "tool_use"
        )
        out = [_result(part) for part in content if part["type"] == "tool_result"]
        if texts or calls or not out:
            out.append(Message(role=role, text=texts, tool_calls=calls))
        return out
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequestError(f"messages: {type(error).__name__} {error}") from error


def _result(part: dict[str, Any]) -> Message:
    return Message(
        role=Role.TOOL,
        text=text_of(part.get("content")),
        call_id=part["tool_use_id"],
        is_error=bool(part.get("is_error")),
    )


def _tool(raw: Any) -> ToolSchema:
    try:
        return ToolSchema(name=raw["name"], description=raw.get("description", ""), parameters=raw["input_schema"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequestError(f"tools: {error}") from error
