"""What a model call by a provider's Batch API passes between orchestration, activities and the database."""

from __future__ import annotations

from datetime import datetime

from workflows.contracts.messages import Frozen, ModelRequest
from workflows.contracts.provider_settings import ModelSettings
from workflows.contracts.steps import ModelCallRequest, ModelTurn


class GatheredCall(Frozen):
    """One request of a batch, with all that is needed to record its answer, whatever the settings say by then."""

    call: ModelCallRequest
    sent: ModelRequest
    price_provider: str
    override: ModelSettings | None = None
    tier: str = ""
    downgraded_from: str = ""


class BatchPlace(Frozen):
    """What a model call that can wait has got: a place in a batch, a turn at once, or neither: then it is made as an ordinary call."""

    call_id: int | None = None
    """The place: the call's row in the ledger."""
    provider: str = ""
    gather_s: float = 0.0
    """When to hand the batch in; the looks come `first_look_s` after it, and ever more seldom."""
    first_look_s: float = 0.0
    longest_look_s: float = 0.0
    turn: ModelTurn | None = None
    ordinary: str = ""
    """Why it is made as an ordinary call."""


class BatchLook(Frozen):
    """A look at the batch that a call is in."""

    call: ModelCallRequest
    call_id: int
    at_once: bool = False
    """Somebody woke the run: ask the provider, however lately it was asked."""


class BatchState(Frozen):
    """How the call stands: its turn, the reason why it goes on as an ordinary call, or since when the batch is at the provider."""

    turn: ModelTurn | None = None
    ordinary: str = ""
    handed_in_at: datetime | None = None
