"""What a run has used and repeated so far: pure bookkeeping that the agent loop decides by."""

from __future__ import annotations

from collections.abc import Mapping

from workflows.contracts.agents import Limits
from workflows.contracts.runs import Repeat, Totals
from workflows.contracts.steps import CompactOutcome, ModelTurn, ToolCallRef

REMEMBERED_CALLS = 32
"""How many different calls are watched for repeats; the oldest are forgotten, so that the state stays small."""


def add_call(totals: Totals, call: ModelTurn | CompactOutcome) -> Totals:
    """The totals with one model call more; one that is shared with another run was counted there."""
    if call.shared:
        return totals
    return totals.model_copy(
        update={
            "steps": totals.steps + 1,
            "calls": totals.calls + 1,
            "usage": totals.usage + call.usage,
            "cost_usd": totals.cost_usd + call.cost_usd,
            "unknown_usd": totals.unknown_usd + call.unknown_usd,
            "downgraded": totals.downgraded + (1 if isinstance(call, ModelTurn) and call.downgraded_from else 0),
            "cached": totals.cached + (1 if isinstance(call, ModelTurn) and call.cached else 0),
        }
    )


def add_child(totals: Totals, child: Totals) -> Totals:
    """The totals with a sub-run's cost and tokens; its steps and calls are its own."""
    return totals.model_copy(
        update={
            "usage": totals.usage + child.usage,
            "cost_usd": totals.cost_usd + child.cost_usd,
            "unknown_usd": totals.unknown_usd + child.unknown_usd,
        }
    )


def limit_reached(limits: Limits, totals: Totals, worked_s: float) -> str | None:
    """Which limit forbids the next model call, in words, or None."""
    if totals.steps >= limits.steps:
        return f"limit steps: {limits.steps} used"
    if totals.calls >= limits.calls:
        return f"limit calls: {limits.calls} used"
    if totals.usage.total_tokens >= limits.tokens:
        return f"limit tokens: {totals.usage.total_tokens} of {limits.tokens} used"
    if totals.cost_usd >= limits.cost_usd:
        return f"limit cost_usd: {totals.cost_usd:.4f} of {limits.cost_usd} used"
    if worked_s >= limits.time_s:
        return f"limit time_s: {worked_s:.0f} of {limits.time_s:g} used"
    return None


class RepeatWatch:
    """Counts how often the same call (same tool, same arguments) gave the same result."""

    def __init__(self, carried: Mapping[str, Repeat]) -> None:
        self._calls: dict[str, Repeat] = dict(carried)

    @property
    def calls(self) -> dict[str, Repeat]:
        """The counts, for continue-as-new."""
        return dict(self._calls)

    def count(self, call: ToolCallRef) -> int:
        """How often in a row this call gave its last result, refusals included."""
        repeat = self._calls.get(_key(call))
        return repeat.count if repeat else 0

    def seen(self, call: ToolCallRef, result_hash: str) -> None:
        """Count a result."""
        key = _key(call)
        before = self._calls.pop(key, None)
        same = before is not None and before.result_hash == result_hash
        self._calls[key] = Repeat(result_hash=result_hash, count=(before.count + 1) if before and same else 1)
        while len(self._calls) > REMEMBERED_CALLS:
            del self._calls[next(iter(self._calls))]

    def refused(self, call: ToolCallRef) -> None:
        """Count a call that was refused for its repeats."""
        key = _key(call)
        repeat = self._calls[key]
        self._calls[key] = repeat.model_copy(update={"count": repeat.count + 1})


def _key(call: ToolCallRef) -> str:
    return f"{call.name}:{call.arguments_hash}"
