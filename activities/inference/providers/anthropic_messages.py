"""Messages through the anthropic SDK.

As in `openai_chat`, the SDK does credentials, connections and errors, and the stream is read past its event models.
"""

from __future__ import annotations

from typing import Any, Self

import anthropic
from anthropic.types import Message as SdkMessage
from anthropic.types import RawMessageStreamEvent
from pydantic import SecretStr

from activities.inference.providers.connection import client_options, idempotency_header
from activities.inference.providers.messages_stream import MessagesGathering
from activities.inference.providers.prompt_cache import mark_breakpoints
from activities.inference.providers.sdk_provider import OpenStream, SdkErrors, SdkProvider
from activities.inference.providers.wire import parsed_arguments
from workflows.contracts.messages import Message, ModelRequest, Role

_NOTHING = "(no text)"
"""The dialect refuses empty messages."""


class AnthropicMessages(SdkProvider):
    """A provider that speaks Messages.

    Args:
        name: stands before the colon in model ids.
        client: an SDK client built with `max_retries=0`; others are refused with `SettingsError`. Its OpenTelemetry spans
            should be off (`open_telemetry=False`), because Holdfast writes its own.
        prompt_cache: let the provider remember the beginnings of requests that the next ones repeat.
    """

    errors = SdkErrors(anthropic.APIConnectionError, anthropic.APIStatusError)
    request_id_header = "request-id"

    def __init__(self, name: str, client: anthropic.AsyncAnthropic, *, prompt_cache: bool = True) -> None:
        super().__init__(name, client, tuple(filter(None, (client.api_key, client.auth_token))))
        self._client = client
        self._prompt_cache = prompt_cache

    @classmethod
    def connect(cls, name: str, api_key: SecretStr, base_url: str | None = None, *, prompt_cache: bool = True) -> Self:
        """A provider with its own connections; `base_url` None means api.anthropic.com."""
        client = anthropic.AsyncAnthropic(
            api_key=api_key.get_secret_value(),
            base_url=base_url,
            max_retries=0,
            http_client=anthropic.DefaultAioHttpClient(**client_options(base_url)),
            open_telemetry=False,
        )
        return cls(name, client, prompt_cache=prompt_cache)

    def offer_batches(self) -> None:
        """Open the Batch API beside it, over the same connections."""
        from activities.inference.providers.anthropic_batches import AnthropicBatches

        self.batches = AnthropicBatches(self, self._client)

    async def _open(self, request: ModelRequest) -> OpenStream:
        return await self._client.post(
            "/v1/messages",
            cast_to=SdkMessage,
            body=body_of(request, prompt_cache=self._prompt_cache),
            options={"headers": idempotency_header(request.idempotency_key)},
            stream=True,
            stream_cls=anthropic.AsyncStream[RawMessageStreamEvent],
        )

    def _gathering(self, request: ModelRequest) -> MessagesGathering:
        return MessagesGathering(request)


def body_of(request: ModelRequest, *, prompt_cache: bool = False) -> dict[str, Any]:
    """The request as the dialect writes it, with breakpoints for the prompt cache if that is wanted.

    A temperature is sent as it is: newer models refuse it, and the refusal names it, which is better than ignoring it.
    """
    system = "\n\n".join(message.text for message in request.messages if message.role is Role.SYSTEM and message.text)
    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        "messages": _turns(message for message in request.messages if message.role is not Role.SYSTEM),
        "stream": True,
    }
    if system:
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = [{"name": tool.name, "description": tool.description, "input_schema": tool.parameters} for tool in request.tools]
    if request.output_schema is not None:
        schema = anthropic.transform_schema(request.output_schema)
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if prompt_cache:
        mark_breakpoints(body)
    return body


def _turns(messages: Any) -> list[dict[str, Any]]:
    """Messages of the same side in a row become one: all results of a turn's parallel calls stand in one user message."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"] += _blocks(message)
    for turn in turns:
        # Results must come before other text of the same turn.
        turn["content"].sort(key=lambda block: block["type"] != "tool_result" if turn["role"] == "user" else 0)
        turn["content"] = turn["content"] or [{"type": "text", "text": _NOTHING}]
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    if message.role is Role.TOOL:
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.call_id, "content": message.text}
        return [result | ({"is_error": True} if message.is_error else {})]
    # The API refuses text blocks that are empty, and a last assistant text that ends with white space.
    text = message.text.rstrip() if message.role is Role.ASSISTANT else message.text
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text}] if text.strip() else []
    return blocks + [
        {"type": "tool_use", "id": call.call_id, "name": call.name, "input": parsed_arguments(call.arguments)}
        for call in message.tool_calls
    ]
