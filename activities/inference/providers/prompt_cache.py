"""Where anthropic's prompt cache is asked to remember: at the ends of the parts of a request that the next one will repeat.

What is written costs a quarter more than plain input, what is read a tenth of it, so nothing is marked that no other call will read.
"""

from __future__ import annotations

import json
from typing import Any

SHORTEST_TOKENS = 1_024
"""Shorter beginnings are cached by no model; some begin later, and ignore the mark at no cost."""
_CHARS_PER_TOKEN = 4
_MARK = {"cache_control": {"type": "ephemeral"}}


def mark_breakpoints(body: dict[str, Any]) -> None:
    """Mark the last tool, the instructions, the conversation's end and where it ended a step before: four at most.

    Tools and instructions are the same in all runs of an agent. The conversation is marked only where another call of the run is to be
    expected: where tools are offered, or the model has spoken before. The mark at the former end finds what the step before wrote
    there even when very many tool results came in between, as a mark looks back 20 blocks at most.
    """
    chars = 0
    if body.get("tools"):
        chars += len(json.dumps(body["tools"]))
        _mark(body["tools"][-1], chars)
    if body.get("system"):
        chars += len(body["system"])
        system = {"type": "text", "text": body["system"]}
        if _mark(system, chars):
            body["system"] = [system]
    turns = body["messages"]
    goes_on = bool(body.get("tools")) or any(turn["role"] == "assistant" for turn in turns)
    for at, turn in enumerate(turns):
        chars += sum(len(json.dumps(block)) for block in turn["content"])
        if goes_on and turn["role"] == "user" and at >= len(turns) - 3:
            _mark(turn["content"][-1], chars)


def _mark(block: dict[str, Any], chars: int) -> bool:
    long_enough = chars >= SHORTEST_TOKENS * _CHARS_PER_TOKEN
    if long_enough:
        block.update(_MARK)
    return long_enough
