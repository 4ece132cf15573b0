"""What the steps of a run are given and give back: model calls, tool calls, memory."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Literal

from workflows.contracts.agents import ApprovalPolicy, Effect, PinnedAgent, ToolKind
from workflows.contracts.inference import Priority
from workflows.contracts.messages import Frozen, Usage


class ToolCallRef(Frozen):
    """A tool call as orchestration sees it; its arguments stay in the transcript."""

    step: int
    call_id: str
    name: str
    kind: ToolKind = ToolKind.FUNCTION
    effect: Effect = Effect.PURE
    timeout_s: float = 60
    retries: int = 0
    arguments_hash: str
    preview: str = ""
    needs_approval: bool = False
    policy: ApprovalPolicy | None = None
    """Who decides on it, or answers it; None lets everybody, for ever."""
    done: bool = False
    """Its result is in the transcript already: the run was forked or reborn from one that had it."""
    agent: PinnedAgent | None = None
    """For a sub-agent or a hand-over: the definition that is current now, pinned."""


class Appendix(Frozen):
    """A short tool result that orchestration itself decides (a refusal, a hand-over, a child's end), or a person's message, appended by
    the next model call."""

    step: int
    part: int = 0
    """Its place among the rows of its step."""
    call_id: str
    """Empty for a person's message."""
    name: str
    text: str = ""
    is_error: bool = False
    child_run_id: str | None = None
    """The sub-run whose answer is the result; `text` is used when it has none."""


class ModelCallRequest(Frozen):
    """One model call: who, which step, and what to append to the transcript first."""

    run_id: str
    step: int
    agent: PinnedAgent
    tenant: str
    user: str | None = None
    priority: Priority = Priority.NORMAL
    previous: str | None = None
    """The PROVIDER:MODEL of the run's last call: its prompt cache is there."""
    appendices: tuple[Appendix, ...] = ()


class TurnKind(StrEnum):
    """What the model's answer amounts to."""

    FINAL = "final"
    TOOLS = "tools"
    INVALID = "invalid"
    CONTEXT_FULL = "context_full"
    LIMIT = "limit"


class ModelTurn(Frozen):
    """What orchestration needs of a model's answer."""

    kind: TurnKind
    provider: str = ""
    model: str = ""
    downgraded_from: str = ""
    """The tier that the agent asked for, when a lower one answered."""
    cached: Literal["", "exact", "semantic", "stale"] = ""
    """How the answer was found in the response cache; empty when a model was asked."""
    calls: tuple[ToolCallRef, ...] = ()
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)
    unknown_usd: Decimal = Decimal(0)
    preview: str = ""
    reason: str = ""
    """Why the answer was invalid, or which limit was reached."""
    step: int
    """The model call's own step; its tool calls follow it."""
    last_step: int
    """The highest step number that this turn has used, its tool calls included."""
    simulated: bool = False
    invalid_calls: int = 0
    """Tool calls that were malformed; the model has been told in the transcript."""
    shared: bool = False
    """Recorded by the run that this one was forked or reborn from: it costs nothing here, and no limit counts it."""


class ToolRunRequest(Frozen):
    """One tool call; its name and arguments are read from the transcript of `model_step`."""

    run_id: str
    step: int
    model_step: int
    call_id: str
    name: str
    agent: PinnedAgent
    tenant: str
    user: str | None = None
    rulings: int = 0
    """How often a person has ruled that this step's effect, of unknown outcome, may be done again; each is good for one start."""
    approved: bool = False
    """A person said yes to what a hook asked before the call."""


class AskedByHook(Frozen):
    """What a hook asks a person."""

    when: Literal["before", "after"]
    reason: str = ""
    policy: ApprovalPolicy = ApprovalPolicy()


class ToolOutcome(Frozen):
    """What orchestration needs of a tool's result."""

    ok: bool
    result_hash: str
    result_bytes: int
    preview: str = ""
    reused: bool = False
    """The effect had been done already; its recorded result was given."""
    ask: AskedByHook | None = None
    """A hook wants a person's yes: before the call, when nothing was run yet, or before the model sees the result."""


class MemoryRequest(Frozen):
    """One look into memory, or one entry into it."""

    run_id: str
    step: int
    agent: PinnedAgent
    tenant: str
    user: str | None = None


class Recalled(Frozen):
    """How many memories were put before the conversation."""

    count: int


class CompactOutcome(Frozen):
    """What summarising the older part of the transcript took."""

    usage: Usage
    cost_usd: Decimal
    unknown_usd: Decimal = Decimal(0)
    through_step: int
    """All steps up to this one are now stood for by the summary."""
    shared: bool = False
    """Recorded by the run that this one was forked or reborn from."""
