"""Puts a streamed message of the Messages API together, event by event."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from activities.inference.providers.wire import estimated_usage
from workflows.contracts.messages import FinishReason, ModelRequest, ModelResponse, ToolCall, Usage

_FINISH = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "tool_use": FinishReason.TOOL_CALLS,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.REFUSAL,
}


@dataclass(slots=True)
class _Call:
    call_id: str
    name: str
    given: Any
    arguments: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The arguments as the model wrote them; without any piece, what the block began with."""
        return "".join(self.arguments) or json.dumps(self.given or {})


class MessagesGathering:
    """The answer so far."""

    def __init__(self, request: ModelRequest) -> None:
        self.output_chars = 0
        self._request = request
        self._model = request.model
        self._id: str | None = None
        self._text: list[str] = []
        self._calls: dict[int, _Call] = {}
        self._stop: str | None = None
        self._usage: dict[str, int] = {}

    @property
    def finished(self) -> bool:
        """The model has said why it stopped."""
        return self._stop is not None

    def add(self, data: dict[str, Any]) -> None:
        """Take in one event; those of other kinds (ping, thinking) are signs of life and nothing else."""
        match data.get("type"):
            case "content_block_delta":
                self._add_delta(data["index"], data["delta"])
            case "content_block_start":
                self._add_block(data["index"], data["content_block"])
            case "message_start":
                message = data["message"]
                self._id = message.get("id")
                self._model = message.get("model") or self._model
                self._add_usage(message.get("usage"))
            case "message_delta":
                self._stop = data["delta"].get("stop_reason") or self._stop
                self._add_usage(data.get("usage"))

    def _add_block(self, index: int, block: dict[str, Any]) -> None:
        if block["type"] == "tool_use":
            self._calls[index] = _Call(block["id"], block["name"], block.get("input"))
        elif block["type"] == "text" and block.get("text"):
            self._add_text(self._text, block["text"])

    def _add_delta(self, index: int, delta: dict[str, Any]) -> None:
        if delta["type"] == "text_delta":
            self._add_text(self._text, delta["text"])
        elif delta["type"] == "input_json_delta" and index in self._calls:
            self._add_text(self._calls[index].arguments, delta["partial_json"])

    def _add_text(self, target: list[str], text: str) -> None:
        target.append(text)
        self.output_chars += len(text)

    def _add_usage(self, raw: dict[str, Any] | None) -> None:
        """The counts are running totals: the last one that is told counts."""
        self._usage.update({name: count for name, count in (raw or {}).items() if isinstance(count, int)})

    def response(self, *, request_id: str | None, simulated: bool) -> ModelResponse:
        """The whole answer."""
        return ModelResponse(
            model=self._model,
            text="".join(self._text),
            tool_calls=tuple(ToolCall(call_id=call.call_id, name=call.name, arguments=call.text()) for call in self._calls.values()),
            finish=_FINISH.get(self._stop or "", FinishReason.STOP),
            usage=self._normalised() or estimated_usage(self._request, self.output_chars),
            usage_estimated=not self._usage,
            request_id=request_id or self._id,
            simulated=simulated,
        )

    def _normalised(self) -> Usage | None:
        """Cached tokens stand beside the input tokens here; ours hold them inside."""
        if not self._usage:
            return None
        read = self._usage.get("cache_read_input_tokens", 0)
        written = self._usage.get("cache_creation_input_tokens", 0)
        return Usage(
            input_tokens=self._usage.get("input_tokens", 0) + read + written,
            cached_input_tokens=read,
            cache_write_tokens=written,
            output_tokens=self._usage.get("output_tokens", 0),
        )
