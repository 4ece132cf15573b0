"""The activities as workflows see them: names and types; the bodies are in `activities/`, registered under the same names."""

from __future__ import annotations

from temporalio import activity

from workflows.contracts import names
from workflows.contracts.runs import (
    CompactOutcome,
    MemoryRequest,
    ModelCallRequest,
    ModelTurn,
    Recalled,
    ToolOutcome,
    ToolRunRequest,
)


@activity.defn(name=names.CALL_MODEL)
async def call_model(request: ModelCallRequest) -> ModelTurn:
    """Answer one step by a model; a response that is paid already is given again."""
    raise NotImplementedError


@activity.defn(name=names.RUN_TOOL)
async def run_tool(request: ToolRunRequest) -> ToolOutcome:
    """Run one tool call under the effect ledger."""
    raise NotImplementedError


@activity.defn(name=names.RECALL)
async def recall(request: MemoryRequest) -> Recalled:
    """Put what is remembered before the conversation."""
    raise NotImplementedError


@activity.defn(name=names.REMEMBER)
async def remember(request: MemoryRequest) -> None:
    """Keep the question and the answer for later runs."""
    raise NotImplementedError


@activity.defn(name=names.COMPACT)
async def compact_history(request: ModelCallRequest) -> CompactOutcome:
    """Have the older part of the conversation summarised; a summary that is paid already is found again."""
    raise NotImplementedError
