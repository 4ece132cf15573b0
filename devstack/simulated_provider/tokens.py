"""Counts tokens the way a tokenizer roughly does: deterministic, no vocabulary, cheap enough to run on every request."""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
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
_LOOK_BACK = 20
FIRST_MESSAGE = 2
"""The place of the first message among those where a remembered beginning may end; tools and instructions are before it."""


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


def _tools_tokens(request: SimulatedRequest) -> int:
    tools = sum(
        count_tokens(tool.name) + count_tokens(tool.description) + count_tokens(json.dumps(tool.parameters)) for tool in request.tools
    )
    return tools + (count_tokens(json.dumps(request.output_schema)) if request.output_schema else 0)


def _head_tokens(request: SimulatedRequest) -> int:
    return _MESSAGE_OVERHEAD + count_tokens(request.system) + _tools_tokens(request)


def input_tokens(request: SimulatedRequest) -> int:
    """All tokens that the model reads: instructions, tools, output schema and conversation."""
    return _head_tokens(request) + sum(map(message_tokens, request.messages))


def output_tokens(answer: SimulatedAnswer) -> int:
    """Tokens that the model writes, at least one."""
    calls = sum(_CALL_OVERHEAD + count_tokens(name) + count_tokens(json.dumps(args)) for name, args in answer.calls)
    return max(1, count_tokens(answer.text) + calls)


class PrefixCache:
    """Remembers which beginnings of conversations were sent before, as the providers' own prompt caches do.

    Without breakpoints everything from 1024 tokens on is remembered, and told in steps of 128. With them only what ends at one is, and a
    breakpoint finds what was remembered up to 20 messages before it. The oldest beginnings are forgotten first.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()
        self._capacity = capacity

    def read_and_remember(self, request: SimulatedRequest, breakpoints: Collection[int] | None = None) -> tuple[int, int]:
        """Tokens of the longest beginning that an earlier request of the model had, and tokens newly remembered.

        Args:
            breakpoints: places where a beginning may end: 0 after the tools, 1 after the instructions, then one a message.
        """
        tools = hash((str(request.tools), str(request.output_schema)))
        head = hash((tools, request.system))
        marks = [tools, *accumulate(request.messages, lambda mark, message: hash((mark, message)), initial=head)]
        sizes = [_tools_tokens(request), *accumulate(map(message_tokens, request.messages), initial=_head_tokens(request))]
        places = range(len(marks)) if breakpoints is None else sorted(set(breakpoints))
        cached = max((self._found(request.model, marks, sizes, place, breakpoints is not None) for place in places), default=0)
        ends = [place for place in places if sizes[place] >= _CACHE_MINIMUM]
        for place in ends:
            self._seen[request.model, marks[place]] = None
            self._seen.move_to_end((request.model, marks[place]))
        while len(self._seen) > self._capacity:
            self._seen.popitem(last=False)
        if breakpoints is None:
            cached -= cached % _CACHE_STEP
        return cached, max(0, sizes[ends[-1]] - cached) if ends else 0

    def _found(self, model: str, marks: Sequence[int], sizes: Sequence[int], place: int, looks_back: bool) -> int:
        """Tokens of the longest beginning that is remembered at this place, or a little before it."""
        back = range(place, max(-1, place - _LOOK_BACK), -1) if looks_back else (place,)
        return next((sizes[at] for at in back if (model, marks[at]) in self._seen), 0)
