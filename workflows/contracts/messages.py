"""The conversation, in one provider-neutral shape; each provider adapter translates to and from it."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Role(StrEnum):
    """Who speaks; `system` is the definition's instructions, `tool` a tool's result."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ToolCall(Frozen):
    """A call that the model asks for. `arguments` is the raw JSON text as the model wrote it, valid or not."""

    call_id: str
    name: str
    arguments: str


class Message(Frozen):
    """One entry of a conversation."""

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None
    """On a tool's result: the call that it answers."""
    is_error: bool = False
    """On a tool's result: the call failed and `text` says why."""


class ToolSchema(Frozen):
    """What the model is told of a tool. `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


class Usage(Frozen):
    """Tokens of one or more model calls, normalised: `input_tokens` holds all input, cached or not.

    openai counts cached tokens inside its prompt tokens, anthropic beside its input tokens; here they are always inside.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


class FinishReason(StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    REFUSAL = "refusal"


class ModelRequest(Frozen):
    """One call to a model as the inference layer sends it. `model` is the provider's own model name, without a prefix."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...] = ()
    output_schema: dict[str, Any] | None = None
    """A JSON schema that the answer must fit, or None for free text."""
    max_output_tokens: int
    temperature: float | None = None
    idempotency_key: str
    """(run, step): sent to providers that take a request id, and journalled by the simulated provider."""
    metadata: dict[str, str] = {}

    @property
    def run_id(self) -> str:
        """The run of the idempotency key `run:step`; empty when the key has another shape."""
        return self.idempotency_key.rpartition(":")[0]


class LimitKind(StrEnum):
    """What a provider's limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"


class ToldLimit(Frozen):
    """What a provider told of one of its limits beside an answer or a refusal; None: it did not say."""

    kind: LimitKind
    limit: float | None = None
    """Of a period, a minute as a rule; which one the provider does not say."""
    remaining: float | None = None
    reset_s: float | None = None
    """Seconds from the answer until the whole limit is free again."""


class ModelResponse(Frozen):
    """What a model answered, with what it used."""

    model: str
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: FinishReason
    usage: Usage
    usage_estimated: bool = False
    """True when the server told no usage and it was estimated from the text's length."""
    request_id: str | None = None
    """The provider's own id of the request, for support and audits."""
    simulated: bool = False
    """True when the answer came from the simulated provider or a scripted model, so that every surface can say so."""
    told: tuple[ToldLimit, ...] = Field(default=(), exclude=True)
    """What the provider told of its limits with this answer: news for the limiter, never stored with the answer."""


class Price(Frozen):
    """What a call costs; `version` names the table that said so."""

    cost_usd: Decimal
    version: str
