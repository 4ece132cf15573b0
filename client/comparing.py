"""Two runs side by side: where they are the same, where they part, what each of them cost and answered."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

from client import reports
from client.backend import Backend
from client.reports import RunReport
from client.steps import StepReport
from state import transcripts
from state.transcripts import Entry
from workflows.contracts.messages import Frozen, Role
from workflows.contracts.runs import RunStatus

Likeness = Literal["same", "changed", "only_a", "only_b"]


class ComparedRun(Frozen):
    """One of the two, in short."""

    id: str
    agent: str
    definition_hash: str
    status: RunStatus | None
    origin: str | None
    """Where it was forked or reborn from."""
    model_calls: int
    tool_calls: int
    cost_usd: Decimal
    """What it was charged itself: steps that it shares with another run cost it nothing."""
    answer: str | None


class ComparedStep(Frozen):
    """One step of both, or of one."""

    step: int
    likeness: Likeness
    """`same`: the same was said, called, and given as the result, to the letter."""
    a: StepReport | None
    b: StepReport | None


class Comparison(Frozen):
    """Two runs, step by step."""

    a: ComparedRun
    b: ComparedRun
    steps: tuple[ComparedStep, ...]

    @property
    def parted_at(self) -> int | None:
        """The first step that is not the same; None when all are."""
        return next((step.step for step in self.steps if step.likeness != "same"), None)


async def compare(backend: Backend, a: str, b: str) -> Comparison:
    """Read two runs and put their steps beside each other, by number.

    Raises:
        UnknownRunError: the database has no such run.
    """
    one, other = await asyncio.gather(reports.report(backend, a), reports.report(backend, b))
    said_a, said_b = await asyncio.gather(transcripts.entries(backend.database, a), transcripts.entries(backend.database, b))
    return Comparison(a=_in_short(one, said_a), b=_in_short(other, said_b), steps=side_by_side(one.steps, other.steps, said_a, said_b))


def side_by_side(
    a: Sequence[StepReport], b: Sequence[StepReport], said_a: Sequence[Entry], said_b: Sequence[Entry]
) -> tuple[ComparedStep, ...]:
    """The steps of both by number, each with how alike they are by their whole content."""
    left, right = {step.step: step for step in a}, {step.step: step for step in b}
    content_a, content_b = _content(said_a), _content(said_b)
    asked_a, asked_b = _asked(said_a), _asked(said_b)
    found = []
    for step in sorted({*left, *right}):
        one, other = left.get(step), right.get(step)
        alike = content_a.get(step) == content_b.get(step) and asked_a.get(step) == asked_b.get(step)
        found.append(ComparedStep(step=step, likeness=_likeness(one, other, alike=alike), a=one, b=other))
    return tuple(found)


def _likeness(a: StepReport | None, b: StepReport | None, *, alike: bool) -> Likeness:
    if a is None:
        return "only_b"
    if b is None:
        return "only_a"
    same = alike and (a.kind, a.agent, a.state) == (b.kind, b.agent, b.state) and (a.kind == "model" or a.name == b.name)
    return "same" if same else "changed"


def _content(said: Sequence[Entry]) -> Mapping[int, list[tuple[object, ...]]]:
    """What was said at each step. Call ids are left out: providers make them up."""
    by_step: dict[int, list[tuple[object, ...]]] = {}
    for entry in said:
        message = entry.message
        calls = tuple((call.name, call.arguments) for call in message.tool_calls)
        by_step.setdefault(entry.step, []).append((entry.part, message.role, message.text, entry.blob_id, calls, message.is_error))
    return by_step


def _asked(said: Sequence[Entry]) -> Mapping[int, tuple[str, str]]:
    """What each call asked, by its own step."""
    return {
        entry.step + place: (call.name, call.arguments) for entry in said for place, call in enumerate(entry.message.tool_calls, start=1)
    }


def _in_short(report: RunReport, said: Sequence[Entry]) -> ComparedRun:
    last = max(said, key=lambda entry: (entry.step, entry.part), default=None)
    answered = last is not None and last.message.role is Role.ASSISTANT and not last.message.tool_calls
    return ComparedRun(
        id=report.id,
        agent=report.agent,
        definition_hash=report.definition_hash,
        status=report.status,
        origin=report.origin,
        model_calls=report.totals.model_calls,
        tool_calls=report.totals.tool_calls,
        cost_usd=report.totals.cost_usd,
        answer=last.message.text if last is not None and answered else None,
    )
