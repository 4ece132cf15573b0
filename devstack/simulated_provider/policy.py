"""What a simulated model answers: a readable function of the conversation, with no model behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workflows.contracts.messages import Message, ToolSchema


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """A request as either dialect's endpoint understood it. `system` holds the instructions, `messages` the rest."""

    model: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSchema, ...]
    output_schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """Text, or calls of tools as (name, arguments) in order; both may be given."""

    text: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = field(default=())


Policy = Callable[[SimulatedRequest], SimulatedAnswer]
