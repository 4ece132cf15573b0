"""What a run is given, what it carries from step to step, and what it gives back. All small: content stays in PostgreSQL."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from pydantic import Field, JsonValue

from workflows.contracts.agents import Limits, PinnedAgent
from workflows.contracts.errors import FailureClass
from workflows.contracts.inference import Priority
from workflows.contracts.messages import Frozen, Usage
from workflows.contracts.steps import Appendix

PREVIEW_CHARS = 160
INPUT_LIMIT_BYTES = 1_048_576
TOOL_RESULT_LIMIT_BYTES = 64 * 1024
"""What the model sees of one tool result; the whole stays in the blob store."""


class RunStatus(StrEnum):
    """Where a run stands, as the search attribute AgentStatus shows it; the last two only Temporal can tell."""

    RUNNING = "running"
    WAITING_APPROVAL = "waiting_approval"
    PAUSED = "paused"
    PARKED = "parked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"
    TIMED_OUT = "timed_out"


class Totals(Frozen):
    """What a run has used, sub-agents included."""

    steps: int = 0
    calls: int = 0
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)
    unknown_usd: Decimal = Decimal(0)
    """Charged for calls whose outcome nobody knows (their worker died); part of `cost_usd`."""
    downgraded: int = 0
    """Model calls that a lower tier answered, under pressure."""
    cached: int = 0
    """Model calls that were answered from the response cache."""


class Parked(Frozen):
    """Why a run cannot go on by itself."""

    failure_class: FailureClass
    cause: str
    step: int
    what: str
    """The call that failed, as in `call_model smart` or `run_tool refund`."""
    chain: tuple[str, ...] = ()
    """What lay behind the cause, outermost first."""
    letter: int = 0
    """Its number within the run, as an order may name it."""


class Approval(Frozen):
    """A tool call, a question of the agent's or a held result that waits for a person."""

    call_id: str
    tool: str
    preview: str
    step: int
    kind: Literal["approval", "question", "result"] = "approval"
    reason: str = ""
    version: int = 1
    """Of the arguments; an edit makes the next."""
    since: datetime | None = None
    until: datetime | None = None
    by: tuple[str, ...] = ()
    """Who may decide, as declared; empty: everybody."""
    yes: tuple[str, ...] = ()
    """Who has said yes so far, where several must."""
    quorum: int = 1
    risk: str = "medium"


class Repeat(Frozen):
    """How often in a row a call gave this result."""

    result_hash: str
    count: int


class Carry(Frozen):
    """The state that survives continue-as-new."""

    step: int = 0
    totals: Totals = Totals()
    agent: PinnedAgent
    appendices: tuple[Appendix, ...] = ()
    corrections: int = 0
    repeats: dict[str, Repeat] = {}
    previous: str | None = None
    compacted: bool = False
    """The history was summarised since the last model call that succeeded."""
    worked_s: float = 0
    waited_s: float = 0
    notes: int = 0
    """How many notes and dead letters the run has numbered."""
    messages: tuple[str, ...] = ()
    """What people said that the model has yet to be told."""
    paused_by: str | None = None


class RunInput(Frozen):
    """What starts an AgentRun workflow. The conversation's first message is in the transcript at step 0 already."""

    run_id: str
    agent: PinnedAgent
    tenant: str = "default"
    user: str | None = None
    parent_run_id: str | None = None
    priority: Priority = Priority.NORMAL
    depth: int = Field(default=0, ge=0)
    recall: bool = True
    """Whether memories are put before the conversation, where the agent has any: a fork has those of the run it was forked from."""
    origin: str | None = Field(default=None, exclude_if=lambda origin: origin is None)
    """In words, the run that this one was forked or reborn from."""
    carry: Carry | None = None


class RunOutcome(Frozen):
    """What an AgentRun workflow gives back; the answer itself is in the transcript at `answer_step`."""

    run_id: str
    status: Literal[RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED] = RunStatus.COMPLETED
    agent: str
    answer_step: int | None = None
    preview: str = ""
    totals: Totals
    failure: Parked | None = None
    simulated: bool = False
    waited_s: float = 0
    """Seconds spent waiting for people or a batch, which count as nobody's working time."""
    taken_over_by: str | None = None
    """The person who gave the answer in the model's place."""
    undone: int = 0
    """Effects that were undone at the end."""


class RunView(Frozen):
    """A run as it stands, answered by the `view` query."""

    run_id: str
    agent: str
    status: RunStatus
    step: int
    model: str
    totals: Totals
    doing: str
    limits: Limits = Limits()
    """The limits that hold now: a redrive may have changed them."""
    approvals: tuple[Approval, ...] = ()
    parked: Parked | None = None
    dead_letters: tuple[Parked, ...] = ()
    """Every step that cannot go on; `parked` is the first."""
    delayed_s: float | None = None
    """About how many seconds a delayed step still waits for a limit or a budget."""


class Redrive(Frozen):
    """How a parked run goes on: `retry` the step, `skip` it with `result`, or `abort` the run.

    Of an effect whose outcome nobody knew: `skip` says that it was done, `retry` that it may be done again, `not_done` that it was
    not, which the model is told.
    """

    action: Literal["retry", "skip", "not_done", "abort"] = "retry"
    step: int | None = None
    """Which parked step; None means every one."""
    letter: int | None = None
    """The dead letter's number within the run: an order for one that is settled already is late, and changes nothing."""
    limits: Limits | None = None
    model: str | None = None
    agent: PinnedAgent | None = None
    """Another version of the agent's definition from here on: other instructions, tools, model."""
    arguments: dict[str, JsonValue] | None = None
    """For a parked tool call: other arguments, all of them."""
    input: str | None = Field(default=None, min_length=1, max_length=64 * 1024)
    """Instead of what the run was first asked."""
    result: str = Field(default="", max_length=64 * 1024)
    undo: bool = False
    """With `abort`: what the run's tools did is undone first, last effect first."""
    by: str = "unknown"
    reason: str = ""
    id: str = Field(default="", max_length=100)
    """Names this very order: what comes twice under one id, as by update and by signal, counts once."""
