"""Counts tokens the way a tokenizer roughly does: deterministic, no vocabulary, cheap enough to run on every request."""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from functools import lru_cache
from itertools import accumulate

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from workflows.contracts.messages import Message

_PIECE = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")
_LETTERS_PER_TOKEN = 6
_DIGITS_PER_TOKEN = 3
_MESSAGE_OVERHEAD = 4
_CALL_OVERHEAD = 8
_CACHE_MINIMUM = 1024
_CACHE_STEP = 128


@lru_cache(maxsize=8192)
def count_tokens(text: str) -> int:
    """Tokens of a text: short words and signs are one each, long words and numbers several."""
    total = 0
    for piece in _PIECE.findall(text):
        if piece.isdigit():
            total += math.ceil(len(piece) / _DIGITS_PER_TOKEN)
        else:
            total += math.ceil(len(piece) / _LETTERS_PER_TOKEN)
    return total


def message_tokens(message: Message) -> int:
    """Tokens of one entry of the conversation, with the marks around it."""
    calls = sum(_CALL_OVERHEAD + count_tokens(call.name) + count_tokens(call.arguments) for call in message.tool_calls)
    return _MESSAGE_OVERHEAD + count_tokens(message.text) + calls


def _head_tokens(request: SimulatedRequest) -> int:
    tools = sum(
        count_tokens(tool.name) + count_tokens(tool.description) + count_tokens(json.dumps(tool.parameters)) for tool in request.tools
    )
    schema = count_tokens(json.dumps(request.output_schema)) if request.output_schema else 0
    return _MESSAGE_OVERHEAD + count_tokens(request.system) + tools + schema


def input_tokens(request: SimulatedRequest) -> int:
    """All tokens that the model reads: instructions, tools, output schema and conversation."""
    return _head_tokens(request) + sum(map(message_tokens, request.messages))


def output_tokens(answer: SimulatedAnswer) -> int:
    """Tokens that the model writes, at least one."""
    calls = sum(_CALL_OVERHEAD + count_tokens(name) + count_tokens(json.dumps(args)) for name, args in answer.calls)
    return max(1, count_tokens(answer.text) + calls)


class PrefixCache:
    """Remembers which beginnings of conversations were sent before, as the providers' own prompt caches do.

    Cached tokens are told in steps of 128 from 1024 on; the oldest beginnings are forgotten first.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._capacity = capacity

    def read_and_remember(self, request: SimulatedRequest) -> tuple[int, int]:
        """Tokens of the longest beginning that an earlier request of the model had, and tokens newly remembered."""
        head = hash((request.system, str(request.tools), str(request.output_schema)))
        marks = list(accumulate(request.messages, lambda mark, message: hash((mark, message)), initial=head))
        sizes = list(accumulate(map(message_tokens, request.messages), initial=_head_tokens(request)))
        cached = 0
        for mark, size in zip(marks, sizes, strict=True):
            key = (request.model, mark)
            if key in self._seen:
                cached = size
                self._seen.move_to_end(key)
            elif size >= _CACHE_MINIMUM:
                self._seen[key] = None
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        cached -= cached % _CACHE_STEP
        total = sizes[-1]
        return cached, total - cached if total >= _CACHE_MINIMUM else 0
