"""Chat Completions through the openai SDK; also for every server that speaks this dialect (vLLM, Ollama, …).

The SDK does credentials, connections and errors. The body goes past its parameter models and the stream past its event
models: both are rebuilt per call at a cost that grows with the conversation, and nothing here needs them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import httpx2
import openai
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import SecretStr

from activities.inference.providers import failures
from activities.inference.providers.chat_stream import ChatGathering
from activities.inference.providers.connection import (
    StreamedError,
    client_options,
    idempotency_header,
    is_simulated,
    read_stream,
    refuse_retries,
)
from activities.inference.providers.protocol import Progress
from activities.inference.providers.wire import arguments_text, fits_strict
from workflows.contracts.errors import StepError
from workflows.contracts.messages import Message, ModelRequest, ModelResponse, Role, ToolSchema

ERROR_PREFIX = "Error: "
"""The dialect has no mark for a tool that failed: the result says it in words."""


class OpenAIChat:
    """A provider that speaks Chat Completions.

    Args:
        name: stands before the colon in model ids.
        client: an SDK client built with `max_retries=0`; others are refused with `SettingsError`.
        output_limit: what the server calls the limit of output tokens; `max_tokens` for older compatible servers.
    """

    def __init__(self, name: str, client: openai.AsyncOpenAI, *, output_limit: str = "max_completion_tokens") -> None:
        refuse_retries(name, client)
        self._name = name
        self._client = client
        self._output_limit = output_limit

    @classmethod
    def connect(cls, name: str, api_key: SecretStr, base_url: str | None = None) -> Self:
        """A provider with its own connections; `base_url` None means api.openai.com."""
        client = openai.AsyncOpenAI(
            api_key=api_key.get_secret_value(),
            base_url=base_url,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(**client_options(base_url)),
        )
        return cls(name, client, output_limit="max_tokens" if base_url else "max_completion_tokens")

    @property
    def name(self) -> str:
        """The name that model ids carry in front."""
        return self._name

    async def complete(self, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
        """Send the request and read the answer as a stream. Raises `StepError` and nothing else."""
        try:
            stream = await self._client.post(
                "/chat/completions",
                cast_to=ChatCompletion,
                body=body_of(request, self._output_limit),
                options={"headers": idempotency_header(request.idempotency_key)},
                stream=True,
                stream_cls=openai.AsyncStream[ChatCompletionChunk],
            )
            try:
                return await self._read(stream.response, request, on_progress)
            finally:
                await stream.close()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # Not `from error`: the SDK's errors carry the request, and a failure's causes are written into history.
            raise self._translated(error, request) from None

    async def _read(self, response: httpx2.Response, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
        gathering = ChatGathering(request)
        try:
            await read_stream(self._name, response, gathering, on_progress)
        except StreamedError as streamed:
            failure = failures.read_failure(response.status_code, streamed.body, response.headers)
            raise failures.step_error(self._name, failure, request, [self._client.api_key]) from None
        return gathering.response(
            request_id=response.headers.get("x-request-id"),
            simulated=is_simulated(response),
        )

    def _translated(self, error: Exception, request: ModelRequest) -> StepError:
        match error:
            case StepError():
                return error
            case openai.APITimeoutError() | httpx2.TimeoutException():
                return failures.no_answer(self._name, error, timed_out=True)
            case openai.APIConnectionError() | httpx2.HTTPError():
                return failures.no_answer(self._name, error)
            case openai.APIStatusError():
                failure = failures.read_failure(error.status_code, error.body, error.response.headers)
                return failures.step_error(self._name, failure, request, [self._client.api_key])
            case UnicodeDecodeError():
                return failures.unreadable(self._name, "an event is not UTF-8")
            case UnicodeEncodeError():
                return failures.unsendable(self._name)
            case _:
                return failures.bug(self._name, error)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


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
