"""From an understood request to a planned answer: the policy, the faults that change its answer, and its usage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from devstack.simulated_provider.dialect import Incoming, Planned, plan_calls
from devstack.simulated_provider.faults import Fault, FaultKind, FaultTable
from devstack.simulated_provider.policy import Policy, SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.tokens import PrefixCache, count_tokens, input_tokens, output_tokens
from workflows.contracts.messages import FinishReason, ToolCall, Usage

REFUSAL_TEXT = "I'm sorry, I can't help with that."


def plain_policy(request: SimulatedRequest) -> SimulatedAnswer:
    """The policy when none is given: say so."""
    return SimulatedAnswer(text=f"This is a simulated answer: no policy was given for the model {request.model}.")


@dataclass(slots=True)
class Answerer:
    """Asks the policy and counts tokens."""

    policy: Policy
    faults: FaultTable
    always_caches: bool = False
    """Use the prompt cache also where the dialect asks for a mark in the request and there is none."""
    _prefixes: PrefixCache = field(default_factory=PrefixCache)

    def plan(self, incoming: Incoming, request_id: str, fault: Fault | None) -> tuple[Planned, Fault | None]:
        """The answer, and the fault that shaped it: the given one, or one that waits for answers with tool calls."""
        request = incoming.request
        answer = self.policy(request)
        if fault is None and answer.calls:
            fault = self.faults.on_answer(request)
        text, calls, finish = _shape(answer, request_id, fault)
        written = output_tokens(answer)
        limit = incoming.max_output_tokens
        if limit is not None and written > limit:
            text, calls, finish, written = _cut(text, calls, limit)
        usage = self._usage(incoming, written)
        return Planned(request_id, request.model, text, calls, finish, usage), fault

    @staticmethod
    def input_tokens(request: SimulatedRequest) -> int:
        """What the model would read."""
        return input_tokens(request)

    def _usage(self, incoming: Incoming, written: int) -> Usage:
        read = input_tokens(incoming.request)
        cached, stored = self._prefixes.read_and_remember(incoming.request, None if self.always_caches else incoming.breakpoints)
        return Usage(
            input_tokens=read,
            cached_input_tokens=cached,
            cache_write_tokens=stored if incoming.bills_cache_writes else 0,
            output_tokens=written,
        )


def _shape(answer: SimulatedAnswer, request_id: str, fault: Fault | None) -> tuple[str, tuple[ToolCall, ...], FinishReason]:
    calls = plan_calls(answer, request_id)
    kind = fault.kind if fault else None
    if kind is FaultKind.REFUSAL:
        return REFUSAL_TEXT, (), FinishReason.REFUSAL
    if kind is FaultKind.TRUNCATED:
        return answer.text[: len(answer.text) // 2], _halved(calls), FinishReason.LENGTH
    if kind is FaultKind.MALFORMED_ARGUMENTS:
        calls = tuple(call.model_copy(update={"arguments": call.arguments[:-1] + ",]"}) for call in calls)
    return answer.text, calls, FinishReason.TOOL_CALLS if calls else FinishReason.STOP


def _halved(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    if not calls:
        return ()
    last = calls[-1]
    return (*calls[:-1], last.model_copy(update={"arguments": last.arguments[: len(last.arguments) // 2]}))


def _cut(text: str, calls: tuple[ToolCall, ...], limit: int) -> tuple[str, tuple[ToolCall, ...], FinishReason, int]:
    """The answer as far as the output limit lets it; calls that do not fit whole are cut or missing."""
    words = text.split(" ")
    kept = _longest(len(words), lambda size: count_tokens(" ".join(words[:size])) <= limit)
    if kept < len(words):
        return " ".join(words[:kept]), (), FinishReason.LENGTH, limit
    return text, _halved(calls), FinishReason.LENGTH, limit


def _longest(size: int, fits: Callable[[int], bool]) -> int:
    low, high = 0, size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
