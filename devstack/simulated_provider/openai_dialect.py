"""The Chat Completions dialect, as api.openai.com speaks it."""

from __future__ import annotations

import time
from typing import Any

from devstack.simulated_provider.dialect import BadRequestError, ErrorReply, Incoming, Planned, frame, masked, pieces, text_of
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.gauges import Gauge
from devstack.simulated_provider.limits import CONCURRENCY, Verdict
from devstack.simulated_provider.policy import SimulatedRequest
from workflows.contracts.messages import FinishReason, Message, Role, ToolCall, ToolSchema, Usage

_DONE = b"data: [DONE]\n\n"
_ERROR_PREFIX = "Error: "
_FINISH = {
    FinishReason.STOP: "stop",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.LENGTH: "length",
    FinishReason.REFUSAL: "stop",
}
# kind -> status, type, code, message
_ERRORS: dict[FaultKind, tuple[int, str, str | None, str]] = {
    FaultKind.RATE_LIMITED: (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests. Please try again later."),
    FaultKind.QUOTA: (
        429,
        "insufficient_quota",
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
    ),
    FaultKind.BAD_KEY: (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
    FaultKind.FORBIDDEN: (403, "invalid_request_error", "unsupported_country_region_territory", "Not available in this region."),
    FaultKind.NOT_FOUND: (
        404,
        "invalid_request_error",
        "model_not_found",
        "The model does not exist or you do not have access to it.",
    ),
    FaultKind.BAD_REQUEST: (400, "invalid_request_error", "unsupported_parameter", "Unsupported parameter."),
    FaultKind.TOO_LARGE: (413, "invalid_request_error", None, "Request body is too large."),
    FaultKind.CONTEXT_TOO_LONG: (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 128000 tokens. However, your messages resulted in 131072 tokens.",
    ),
    FaultKind.REQUEST_TIMEOUT: (408, "server_error", None, "Request timed out."),
    FaultKind.CONFLICT: (409, "conflict_error", None, "The resource was changed by another request."),
    FaultKind.SERVER_ERROR: (500, "server_error", None, "The server had an error while processing your request."),
    FaultKind.UNAVAILABLE: (503, "server_error", "slow_down", "Slow down."),
    FaultKind.OVERLOADED: (529, "server_error", "overloaded", "That model is currently overloaded with other requests."),
    FaultKind.OVERLOADED_IN_STREAM: (200, "server_error", "overloaded", "The server is overloaded."),
    FaultKind.RATE_LIMITED_IN_STREAM: (200, "tokens", "rate_limit_exceeded", "Rate limit reached for tokens."),
}


def _error_body(kind: str, code: str | None, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class OpenAIDialect:
    """Reads and writes Chat Completions."""

    name = "openai"
    request_id_header = "x-request-id"

    def key_of(self, headers: Any) -> str | None:
        """The bearer token."""
        scheme, _, key = headers.get("Authorization", "").partition(" ")
        return key or None if scheme.lower() == "bearer" else None

    def parse(self, body: dict[str, Any]) -> Incoming:
        """Understand a chat completion request."""
        if not isinstance(body.get("model"), str):
            raise BadRequestError("you must provide a model parameter")
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            raise BadRequestError("'messages' must be a list with at least one message")
        messages = [_message(raw) for raw in body["messages"]]
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        request = SimulatedRequest(
            model=body["model"],
            system="\n\n".join(message.text for message in messages if message.role is Role.SYSTEM),
            messages=tuple(message for message in messages if message.role is not Role.SYSTEM),
            tools=tuple(_tool(raw) for raw in body.get("tools") or ()),
            output_schema=schema,
        )
        return Incoming(
            request=request,
            stream=bool(body.get("stream")),
            max_output_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
            include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        )

    def body(self, planned: Planned) -> dict[str, Any]:
        """A `chat.completion` object."""
        refused = planned.finish is FinishReason.REFUSAL
        message: dict[str, Any] = {
            "role": "assistant",
            "content": None if refused else planned.text or None,
            "refusal": planned.text if refused else None,
        }
        if planned.calls:
            message["tool_calls"] = [
                {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in planned.calls
            ]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _FINISH[planned.finish]}
        return {**_envelope(planned, "chat.completion"), "choices": [choice], "usage": _usage(planned.usage)}

    def frames(self, planned: Planned, include_usage: bool) -> list[bytes]:
        """The chunks of a streamed completion, the usage chunk and the end mark."""
        envelope = _envelope(planned, "chat.completion.chunk")

        def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return frame({**envelope, "choices": [choice]} | ({"usage": None} if include_usage else {}))

        field = "refusal" if planned.finish is FinishReason.REFUSAL else "content"
        out = [chunk({"role": "assistant", "content": None if planned.calls else "", "refusal": None})]
        out += [chunk({field: piece}) for piece in pieces(planned.text)]
        for index, call in enumerate(planned.calls):
            function = {"name": call.name, "arguments": ""}
            out.append(chunk({"tool_calls": [{"index": index, "id": call.call_id, "type": "function", "function": function}]}))
            out += [chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}) for piece in pieces(call.arguments)]
        out.append(chunk({}, _FINISH[planned.finish]))
        if include_usage:
            out.append(frame({**envelope, "choices": [], "usage": _usage(planned.usage)}))
        return [*out, _DONE]

    def error(self, fault: Fault, key: str) -> ErrorReply:
        """An `error` object with type and code."""
        status, kind, code, message = _ERRORS[fault.kind]
        return ErrorReply(status, _error_body(kind, code, message.replace("{key}", masked(key))))

    def bad_request(self, message: str) -> ErrorReply:
        """HTTP 400 with type `invalid_request_error`."""
        return ErrorReply(400, _error_body("invalid_request_error", None, message))

    def rate_limited(self, verdict: Verdict, model: str) -> ErrorReply:
        """HTTP 429 with code `rate_limit_exceeded`, type `requests` or `tokens`."""
        kind = "requests" if verdict.refused_by in ("requests", CONCURRENCY) else "tokens"
        message = f"Rate limit reached for {model} on {kind} per min."
        if verdict.too_large:
            message = f"Request too large for {model} on {kind} per min. The input or output tokens must be reduced."
        if verdict.refused_by == CONCURRENCY:
            message = f"Rate limit reached for {model}: too many requests at once."
        return ErrorReply(429, _error_body(kind, "rate_limit_exceeded", message))

    def error_frame(self, fault: Fault) -> bytes:
        """A chunk that holds an `error` instead of choices."""
        _, kind, code, message = _ERRORS[fault.kind]
        return frame(_error_body(kind, code, message))

    def limit_headers(self, buckets: dict[str, Gauge]) -> dict[str, str]:
        """`x-ratelimit-*`; durations as in `1m0.5s` or `20ms`."""
        headers = {}
        tokens = buckets.get("tokens") or buckets.get("input_tokens")
        for kind, bucket in (("requests", buckets.get("requests")), ("tokens", tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{kind}"] = str(int(bucket.per_minute))
                headers[f"x-ratelimit-remaining-{kind}"] = str(max(0, int(bucket.level)))
                headers[f"x-ratelimit-reset-{kind}"] = duration(bucket.reset_s)
        return headers


def duration(seconds: float) -> str:
    """A time span as the rate limit headers spell it."""
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return (f"{int(minutes)}m" if minutes else "") + f"{rest:.3f}".rstrip("0").rstrip(".") + "s"


def _envelope(planned: Planned, kind: str) -> dict[str, Any]:
    return {
        "id": planned.request_id.replace("req", "chatcmpl"),
        "object": kind,
        "created": int(time.time()),
        "model": planned.model,
        "system_fingerprint": "fp_simulated",
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _message(raw: Any) -> Message:
    try:
        role = "system" if raw["role"] == "developer" else raw["role"]
        text = text_of(raw.get("content"))
        is_error = role == "tool" and text.startswith(_ERROR_PREFIX)
        return Message(
            role=Role(role),
            text=text.removeprefix(_ERROR_PREFIX) if is_error else text,
            tool_calls=tuple(
                ToolCall(call_id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
                for call in raw.get("tool_calls") or ()
            ),
            call_id=raw.get("tool_call_id"),
            is_error=is_error,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRequestError(f"invalid message: {type(error).__name__} {error}") from error


def _tool(raw: Any) -> ToolSchema:
    try:
        function = raw["function"]
        return ToolSchema(name=function["name"], description=function.get("description", ""), parameters=function.get("parameters", {}))
    except (KeyError, TypeError, ValueError) as error:
        raise BadRequestError(f"invalid tool: {error}") from error
