"""What a call asks, what an answer amounts to, and what is written down of it: the words that the gateway and its callers share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from state import transcripts
from state.budgets import Refusal
from state.model_calls import SubRun
from workflows.contracts.agents import AgentDefinition, Cache
from workflows.contracts.messages import Message, ModelRequest, ModelResponse, Price, ToolSchema

Fold = Callable[[tuple[Message, ...], int], tuple[Message, ...]]
"""(conversation, window in tokens) → what is sent after the instructions."""


@dataclass(frozen=True)
class Asked:
    """What to ask: the instructions and offers that stand beside the conversation. `fold` makes the request's messages of it."""

    instructions: str
    tools: tuple[ToolSchema, ...]
    output_schema: dict[str, Any] | None
    max_output_tokens: int
    temperature: float | None
    fold: Fold
    may_overflow: bool = False
    """The conversation may be larger than the window, because `fold` cuts it."""
    since: datetime | None = None
    """When the step was scheduled: how long it was delayed is counted from there."""
    task: str = ""
    """The task type, for which the settings may name a tier of its own."""
    cache: Cache | None = None
    """Whether the answer may come from the response cache, and for how long one is kept there."""

    @cached_property
    def overhead_tokens(self) -> int:
        """The estimate of what stands beside the conversation."""
        offers = (f"{tool.name}{tool.description}{tool.parameters}" for tool in self.tools)
        return transcripts.text_tokens(self.instructions) + sum(map(transcripts.text_tokens, offers))


@dataclass(frozen=True, slots=True)
class Answered:
    """A response, with where it came from, what it cost and what its dead attempts are charged."""

    request: ModelRequest
    response: ModelResponse
    price: Price
    unknown_usd: Decimal
    provider: str = ""
    downgraded_from: str = ""
    cached: str = ""
    aside_usd: Decimal = Decimal(0)
    """What else the step was charged: the embedding of its question."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What is recorded together with a response. One that is not `sound` is never given to anybody else."""

    turn: dict[str, Any]
    rows: list[dict[str, Any]]
    sub_runs: tuple[SubRun, ...] = ()
    sound: bool = True


@dataclass(frozen=True, slots=True)
class Refused:
    """No call was made: `context_full` or `over_budget`."""

    outcome: str
    unknown_usd: Decimal
    refused_by: str | None
    refusals: tuple[Refusal, ...] = ()
    """Every budget that has no room, the worst first."""


def whole(definition: AgentDefinition, tools: tuple[ToolSchema, ...], since: datetime | None = None) -> Asked:
    """An agent's ordinary question: its instructions, its tools, the conversation as it is."""
    return Asked(
        instructions=definition.instructions,
        tools=tools,
        output_schema=definition.output_schema,
        max_output_tokens=definition.max_output_tokens,
        temperature=definition.temperature,
        fold=lambda conversation, _window: conversation,
        since=since,
        cache=definition.cache,
    )
