"""What an attempt says to the effect ledger, and what the ledger answers."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.contracts.agents import ToolSpec
from workflows.contracts.messages import Message
from workflows.contracts.steps import AskedByHook, ToolRunRequest

LEASE_S = 6.0
"""A holder that has not renewed for this long is taken as dead; about as long as Temporal takes to notice (`policies.HEARTBEAT_S`)."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One attempt's hold on an effect. The token is the attempt's own: who has lost the row to another can no longer end it."""

    request: ToolRunRequest
    spec: ToolSpec
    token: str
    worker: str
    hold: bool = False
    """A hook looks at the result before the model may."""
    undo_timeout_s: float | None = None
    """Seconds that undoing the effect may take; None: it cannot be undone."""
    lease_s: float = LEASE_S


@dataclass(frozen=True, slots=True)
class Begun:
    """What the ledger allows: `go`, `done`, `reused`, `busy`, `unknown`, `no_call`, or `look` when that was asked."""

    outcome: str
    key: str
    attempts: int
    arguments: str = ""
    edited: bool = False
    """A person has changed the arguments."""
    by_step: bool = False
    """The key is the run and the step, not one of the business."""
    generation: int = 1
    """One more each time the effect is done anew after having been undone."""
    message: Message | None = None
    blob_id: str | None = None
    holder_run: str = ""
    holder_step: int = 0
    arguments_hash: str | None = None
    """What the recorded effect was called with."""
    reason: str = ""
    undoing: bool = False
    """Nobody knows whether it was undone; the tool's check cannot tell."""
    held: bool = False
    """The result is recorded, and a hook has yet to look at it."""
    ask: AskedByHook | None = None
    """A hook has let a person decide whether the model may see the result."""
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A step's result as it stands; `recorded` is False when another attempt has taken the effect over."""

    message: Message
    blob_id: str | None
    recorded: bool
    held: bool = False
    ask: AskedByHook | None = None
