"""A run's steps, put together from its transcript and its ledgers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from state import model_calls, runs, transcripts
from state.model_calls import Charge
from state.pool import Database
from state.transcripts import Entry
from workflows.contracts.messages import Frozen, Message, Role, ToolCall, Usage
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact

StepKind = Literal["input", "model", "tool", "agent", "handover", "summary"]
StepState = Literal["done", "running", "waiting", "failed"]

HANDOVER_PREFIX: Final = "hand_over_to_"
_LAST_STEP: Final = 2**31 - 1


class StepReport(Frozen):
    """One step: the input, a model call, or a tool call."""

    step: int
    kind: StepKind
    name: str
    """The model, the tool, or the agent that was called or handed over to; for the input, who spoke."""
    agent: str
    """Whose step it is."""
    state: StepState
    """`waiting`: asked for, and not begun as far as the database knows."""
    asked: str = ""
    """A tool's arguments, shortened."""
    preview: str = ""
    """The answer or result, shortened; the failure where it failed."""
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)
    unknown_usd: Decimal = Decimal(0)
    """The part of `cost_usd` that was charged for attempts whose outcome nobody knows."""
    attempts: int = 0
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    reason: str = ""
    """Why the router chose this model, or how the response cache had the answer."""
    cached: Literal["", "exact", "semantic", "stale"] = ""
    """How a stored answer was found; empty: a model was asked."""
    similarity: float | None = None
    """Of an answer found by meaning: how near the two questions are, 1 being the same."""
    origin: str | None = None
    """Of an answer found by meaning: the cache's key of the question that it was given to."""
    is_error: bool = False
    """The result is an error that was told to the model, or the answer was malformed."""
    simulated: bool = False
    shared: bool = False
    """Answered and paid in the run that this one was forked or reborn from."""
    sub_run_id: str | None = None

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return self.state == "done"


async def read_steps(database: Database, run_id: str, *, after_step: int = -1) -> tuple[StepReport, ...]:
    """The steps past `after_step`, in order; those that go on are told as far as the database knows."""
    entries = await transcripts.entries(database, run_id, after_step=after_step)
    charges = [charge for charge in await model_calls.charges(database, run_id) if abs(charge.step) > after_step]
    children = {_place(child): child for child in await runs.children(database, run_id)}
    return tuple(assemble(entries, charges, children))


def assemble(entries: Iterable[Entry], charges: Iterable[Charge], children: dict[int, str]) -> list[StepReport]:
    """Put the rows of one run together, by step."""
    rows: dict[int, Entry] = {}
    told_wrong: set[int] = set()
    calls: dict[int, tuple[ToolCall, Entry]] = {}
    for entry in entries:
        if entry.part == 0:
            rows[entry.step] = entry
            for place, call in enumerate(entry.message.tool_calls, start=1):
                calls[entry.step + place] = (call, entry)
        elif entry.part == 1:  # later parts are what people said meanwhile
            told_wrong.add(entry.step)
    attempts: dict[int, list[Charge]] = {}
    embeddings: dict[int, list[Charge]] = {}
    for charge in charges:
        (attempts if charge.step >= 0 else embeddings).setdefault(abs(charge.step), []).append(charge)
    found = []
    for step in sorted({*rows, *calls, *attempts}):
        if step in attempts:
            paid = _paid_step(step, attempts[step], rows.get(step), wrong=step in told_wrong)
            found.append(_with_embeddings(paid, embeddings.get(step, ())))
        elif step in calls:
            found.append(_tool_step(step, *calls[step], rows.get(step), children.get(step)))
        else:
            found.append(_plain_step(rows[step]))
    return found


def _paid_step(step: int, attempts: list[Charge], row: Entry | None, *, wrong: bool) -> StepReport:
    """A model call: its attempts from the ledger, its answer from the transcript."""
    last = next((charge for charge in attempts if charge.state == "recorded"), attempts[-1])
    ended_at = last.finished_at
    answered = last.state == "recorded"
    usage = Usage()
    for charge in attempts:
        usage += model_calls.usage_of(charge)
    state: StepState = "done" if answered else "running" if last.state == "in_flight" else "failed"
    summary = row is not None and row.message.role is Role.USER
    return StepReport(
        step=step,
        kind="summary" if summary else "model",
        name=last.model,
        agent=last.agent,
        state=state,
        preview=_said(row.message) if row else _short(last.failure or ""),
        usage=usage,
        cost_usd=sum((charge.cost_usd for charge in attempts), Decimal(0)),
        unknown_usd=sum((charge.cost_usd for charge in attempts if charge.state == "unknown"), Decimal(0)),
        attempts=sum(not charge.shared for charge in attempts),
        started_at=attempts[0].started_at,
        ended_at=ended_at,
        duration_s=_seconds(attempts[0].started_at, ended_at),
        reason=last.reason,
        **_from_cache(last),
        is_error=wrong,
        simulated=last.simulated,
        shared=last.shared,
    )


def _from_cache(charge: Charge) -> dict[str, Any]:
    decision = charge.decision or {}
    return {"cached": charge.cache or "", "similarity": decision.get("similarity"), "origin": decision.get("origin")}


def _with_embeddings(step: StepReport, embeddings: Sequence[Charge]) -> StepReport:
    """The step with what the embedding of its question was charged, for the semantic cache."""
    cost_usd = sum((charge.cost_usd for charge in embeddings), step.cost_usd)
    unknown_usd = sum((charge.cost_usd for charge in embeddings if charge.state == "unknown"), step.unknown_usd)
    return step.model_copy(update={"cost_usd": cost_usd, "unknown_usd": unknown_usd})


def _tool_step(step: int, call: ToolCall, asked_in: Entry, row: Entry | None, child: str | None) -> StepReport:
    handover = call.name.startswith(HANDOVER_PREFIX)
    started_at, ended_at = asked_in.created_at, row.created_at if row else None
    return StepReport(
        step=step,
        kind="agent" if child else "handover" if handover else "tool",
        name=call.name.removeprefix(HANDOVER_PREFIX) if handover else call.name,
        agent=asked_in.agent,
        state="done" if row else "running" if child else "waiting",
        asked=_short(call.arguments),
        preview=_short(row.message.text) if row else "",
        attempts=1 if row or child else 0,
        started_at=started_at,
        ended_at=ended_at,
        duration_s=_seconds(started_at, ended_at),
        is_error=row is not None and row.message.is_error,
        sub_run_id=child,
    )


def _plain_step(row: Entry) -> StepReport:
    """The input; and a row of a step whose ledger is gone."""
    return StepReport(
        step=row.step,
        kind="input" if row.step == 0 else "tool" if row.message.role is Role.TOOL else "model",
        name=row.message.role.value,
        agent=row.agent,
        state="done",
        preview=_said(row.message),
        started_at=row.created_at,
        ended_at=row.created_at,
        is_error=row.message.is_error,
    )


def _said(message: Message) -> str:
    calls = ", ".join(f"{call.name}({call.arguments})" for call in message.tool_calls)
    return _short(f"{message.text} → {calls}" if message.text and calls else message.text or f"→ {calls}")


def _short(text: str) -> str:
    """A head is enough: redacting a whole megabyte for one line would not be."""
    return one_line(redact(text[:_HEAD_CHARS]))


_HEAD_CHARS: Final = 2_000


def _seconds(started_at: datetime, ended_at: datetime | None) -> float | None:
    return None if ended_at is None else round((ended_at - started_at).total_seconds(), 3)


def _place(child: str) -> int:
    """The step of its parent that a sub-run serves: the last part of its id."""
    place = child.rpartition(".")[2]
    return int(place) if place.isdecimal() else _LAST_STEP
