"""Puts a streamed chat completion together, chunk by chunk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from activities.inference.providers.wire import estimated_usage
from workflows.contracts.messages import FinishReason, ModelRequest, ModelResponse, ToolCall, Usage

_FINISH = {
    "stop": FinishReason.STOP,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.REFUSAL,
}


@dataclass(slots=True)
class _Call:
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class ChatGathering:
    """The answer so far."""

    def __init__(self, request: ModelRequest) -> None:
        self.output_chars = 0
        self._request = request
        self._model = request.model
        self._id: str | None = None
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}
        self._finish: str | None = None
        self._usage: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """The model has said why it stopped."""
        return self._finish is not None

    def add(self, data: dict[str, Any]) -> None:
        """Take in one chunk."""
        self._id = data.get("id") or self._id
        self._model = data.get("model") or self._model
        self._usage = data.get("usage") or self._usage
        for choice in data.get("choices") or ():
            delta = choice.get("delta") or {}
            self._add_text(self._text, delta.get("content"))
            self._add_text(self._refusal, delta.get("refusal"))
            for part in delta.get("tool_calls") or ():
                self._add_call(part)
            self._finish = choice.get("finish_reason") or self._finish

    def _add_text(self, target: list[str], text: str | None) -> None:
        if text:
            target.append(text)
            self.output_chars += len(text)

    def _add_call(self, part: dict[str, Any]) -> None:
        call = self._call_for(part.get("index"), part.get("id") or "")
        function = part.get("function") or {}
        call.name = call.name or function.get("name") or ""
        arguments = function.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            arguments = json.dumps(arguments)
        self._add_text(call.arguments, arguments)

    def _call_for(self, index: int | None, call_id: str) -> _Call:
        """The call that a part belongs to. Servers exist that give no index, or 0 to every call: then the id decides."""
        if index is None:
            index = len(self._calls) if call_id or not self._calls else len(self._calls) - 1
        call = self._open.get(index)
        if call is None or (call_id and call.call_id and call_id != call.call_id):
            call = self._open[index] = _Call(call_id)
            self._calls.append(call)
        call.call_id = call.call_id or call_id
        return call

    def response(self, *, request_id: str | None, simulated: bool) -> ModelResponse:
        """The whole answer."""
        refusal = "".join(self._refusal)
        usage = _usage(self._usage)
        return ModelResponse(
            model=self._model,
            text="".join(self._text) or refusal,
            tool_calls=tuple(
                ToolCall(
                    call_id=call.call_id or f"call_{len(self._request.messages)}_{number}",
                    name=call.name,
                    arguments="".join(call.arguments),
                )
                for number, call in enumerate(self._calls)
            ),
            finish=self._finish_reason(bool(refusal)),
            usage=usage or estimated_usage(self._request, self.output_chars),
            usage_estimated=usage is None,
            request_id=request_id or self._id,
            simulated=simulated,
        )

    def _finish_reason(self, refused: bool) -> FinishReason:
        if refused:
            return FinishReason.REFUSAL
        finish = _FINISH.get(self._finish or "", FinishReason.STOP)
        # Some servers say "stop" although the model calls tools.
        return FinishReason.TOOL_CALLS if finish is FinishReason.STOP and self._calls else finish


def _usage(raw: dict[str, Any] | None) -> Usage | None:
    """Cached tokens are already inside the prompt tokens here."""
    if not raw:
        return None
    details = raw.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=raw.get("prompt_tokens") or 0,
        cached_input_tokens=details.get("cached_tokens") or 0,
        output_tokens=raw.get("completion_tokens") or 0,
    )
