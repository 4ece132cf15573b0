"""Chat Completions through the openai SDK; also for every server that speaks this dialect (vLLM, Ollama, …).

The SDK does credentials, connections and errors. The body goes past its parameter models and the stream past its event
models: both are rebuilt per call at a cost that grows with the conversation, and nothing here needs them.
"""

from __future__ import annotations

import hashlib
from typing import Any, Self
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import SecretStr

from activities.inference.providers.chat_stream import ChatGathering
from activities.inference.providers.connection import client_options, idempotency_header
from activities.inference.providers.embedding import Embedder
from activities.inference.providers.sdk_provider import OpenStream, SdkErrors, SdkProvider
from activities.inference.providers.wire import arguments_text, fits_strict
from workflows.contracts.messages import Message, ModelRequest, Role, ToolSchema

ERROR_PREFIX = "Error: "
"""The dialect has no mark for a tool that failed: the result says it in words."""


class OpenAIChat(SdkProvider):
    """A provider that speaks Chat Completions.

    Args:
        name: stands before the colon in model ids.
        client: an SDK client built with `max_retries=0`; others are refused with `SettingsError`.
        output_limit: what the server calls the limit of output tokens; `max_tokens` for older compatible servers.
        prompt_cache: name the run to the provider's prompt cache, so that its calls meet the same part of it. The cache itself is
            automatic in this dialect; servers other than openai's own may refuse the name.
    """

    errors = SdkErrors(openai.APIConnectionError, openai.APIStatusError)
    request_id_header = "x-request-id"

    def __init__(
        self, name: str, client: openai.AsyncOpenAI, *, output_limit: str = "max_completion_tokens", prompt_cache: bool = False
    ) -> None:
        super().__init__(name, client, (client.api_key,))
        self._client = client
        self._prompt_cache = prompt_cache
        self._output_limit = output_limit

    @classmethod
    def connect(cls, name: str, api_key: SecretStr, base_url: str | None = None, *, prompt_cache: bool = True) -> Self:
        """A provider with its own connections; `base_url` None means api.openai.com."""
        client = openai.AsyncOpenAI(
            api_key=api_key.get_secret_value(),
            base_url=base_url,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(**client_options(base_url)),
        )
        limit = "max_completion_tokens" if _is_openais(base_url) else "max_tokens"
        return cls(name, client, output_limit=limit, prompt_cache=prompt_cache and names_the_run(base_url))

    def offer_batches(self) -> None:
        """Open the Batch API beside it, over the same connections."""
        from activities.inference.providers.openai_batches import OpenAIBatches

        self.batches = OpenAIBatches(self, self._client, self._output_limit)

    def embedder(self, model: str, dimensions: int | None) -> Embedder:
        """One of its embeddings models, over the same connections."""
        from activities.inference.providers.openai_embeddings import OpenAIEmbedder

        return OpenAIEmbedder(self, self._client, model, dimensions)

    async def _open(self, request: ModelRequest) -> OpenStream:
        return await self._client.post(
            "/chat/completions",
            cast_to=ChatCompletion,
            body=body_of(request, self._output_limit) | (cache_name(request) if self._prompt_cache else {}),
            options={"headers": idempotency_header(request.idempotency_key)},
            stream=True,
            stream_cls=openai.AsyncStream[ChatCompletionChunk],
        )

    def _gathering(self, request: ModelRequest) -> ChatGathering:
        return ChatGathering(request)


def names_the_run(base_url: str | None) -> bool:
    """Whether the server surely knows `prompt_cache_key`; others may refuse what they do not know."""
    return _host(base_url).endswith(".openai.com")


def _is_openais(base_url: str | None) -> bool:
    return _host(base_url).endswith((".openai.com", ".openai.azure.com"))


def _host(base_url: str | None) -> str:
    return (urlsplit(base_url).hostname if base_url else "api.openai.com") or ""


def cache_name(request: ModelRequest) -> dict[str, str]:
    """The run's name for the prompt cache, hashed: the parameter holds 64 characters, and a run's id may say more than it should."""
    return {"prompt_cache_key": hashlib.sha256(request.run_id.encode()).hexdigest()[:32]} if request.run_id else {}


def body_of(request: ModelRequest, output_limit: str) -> dict[str, Any]:
    """The request as the dialect writes it."""
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_message(message) for message in request.messages],
        output_limit: request.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    if request.output_schema is not None:
        schema = request.output_schema
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": fits_strict(schema)},
        }
    return body


def _message(message: Message) -> dict[str, Any]:
    match message.role:
        case Role.TOOL:
            text = ERROR_PREFIX + message.text if message.is_error else message.text
            return {"role": "tool", "tool_call_id": message.call_id, "content": text}
        case Role.ASSISTANT if message.tool_calls:
            calls = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": arguments_text(call.arguments)},
                }
                for call in message.tool_calls
            ]
            return {"role": "assistant", "content": message.text or None, "tool_calls": calls}
        case _:
            return {"role": message.role.value, "content": message.text}


def _tool(tool: ToolSchema) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
    }
