"""From what a step has got to the turn that its run goes on with: who was asked, how an answer is read, what is said without one."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol, TypeVar

from activities.inference import turns
from activities.inference.asking import Answered, Kept, Refused
from activities.inference.payment import Paid
from activities.inference.turns import Seat
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.messages import Usage
from workflows.contracts.steps import CompactOutcome, ModelCallRequest, ModelTurn, TurnKind

OutcomeT = TypeVar("OutcomeT", ModelTurn, CompactOutcome)


class Definitions(Protocol):
    """Where pinned and current definitions come from."""

    async def by_hash(self, definition_hash: str) -> AgentDefinition:
        """A definition as it was pinned."""
        ...

    async def current(self, name: str) -> AgentDefinition:
        """A definition as it stands now."""
        ...


async def seat_of(definitions: Definitions, request: ModelCallRequest) -> Seat:
    """The agent of a call, with those that it may call or hand over to."""
    definition = await definitions.by_hash(request.agent.definition_hash)
    neighbours = {name: await definitions.current(name) for name in (*definition.agents, *definition.handoffs)}
    return Seat(definition, neighbours)


def kept(request: ModelCallRequest, seat: Seat, answered: Answered) -> Kept:
    """What is recorded of an agent's answer."""
    cost_usd = answered.price.cost_usd + answered.aside_usd
    read = turns.read_turn(request.run_id, request.step, seat, answered.request, answered.response, cost_usd, answered.unknown_usd)
    whence = {"provider": answered.provider, "downgraded_from": answered.downgraded_from, "cached": answered.cached}
    turn = read.turn.model_copy(update=whence)
    sound = turn.kind is not TurnKind.INVALID and not turn.invalid_calls
    return Kept(turn.model_dump(mode="json"), read.rows, tuple(read.sub_runs), sound)


def turn_of(request: ModelCallRequest, paid: Paid | Refused) -> ModelTurn:
    """The turn that is recorded, or the one that says why there is none."""
    if isinstance(paid, Refused):
        kind = TurnKind.CONTEXT_FULL if paid.outcome == "context_full" else TurnKind.LIMIT
        return no_call(request, kind, why(request, paid), paid.unknown_usd)
    recorded, unknown_usd = paid
    if "through_step" in recorded:  # a run that walks recorded steps again finds a summary where the first one found no room
        return no_call(request, TurnKind.CONTEXT_FULL, "the history was summarised here", unknown_usd)
    return charged(ModelTurn.model_validate(recorded), unknown_usd)


def charged(recorded: OutcomeT, unknown_usd: Decimal) -> OutcomeT:
    """What it cost with the unknown spend of its step as it stands now: late answers may have settled some of it."""
    return recorded.model_copy(update={"cost_usd": recorded.cost_usd - recorded.unknown_usd + unknown_usd, "unknown_usd": unknown_usd})


def why(request: ModelCallRequest, refused: Refused) -> str:
    """Why no call was made, in words."""
    if refused.outcome == "context_full":
        return "the conversation does not fit the model's context window"
    shared = next((refusal for refusal in refused.refusals if refusal.turns_in_s is not None), None)
    if shared is not None:
        return (
            f"budget {shared.budget}: the next call could pass its {shared.dimension}; its period turns in {shared.turns_in_s:.0f} s, "
            f"or raise it: `holdfast config set budgets.{shared.name}.{shared.dimension} …`"
        )
    whose = "this run" if refused.refused_by in (None, request.run_id) else f"the calling run {refused.refused_by}"
    return f"limit cost_usd: the next call could pass what is left of the budget of {whose} ({request.agent.limits.cost_usd} USD here)"


def no_call(request: ModelCallRequest, kind: TurnKind, reason: str, unknown_usd: Decimal) -> ModelTurn:
    """A turn without an answer."""
    return ModelTurn(
        kind=kind,
        usage=Usage(),
        cost_usd=unknown_usd,
        unknown_usd=unknown_usd,
        reason=reason,
        step=request.step,
        last_step=request.step,
    )
