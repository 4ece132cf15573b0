"""The activities that ask a model: the agent's next turn, and the summary of a history grown too long."""

from __future__ import annotations

from decimal import Decimal
from typing import Protocol

from temporalio import activity

from activities.inference import asking, summaries, turns
from activities.inference.asking import Answered, Kept, Refused
from activities.inference.gateway import Gateway
from activities.inference.turns import Seat
from state import transcripts
from workflows.contracts import names
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, Message, Role, Usage
from workflows.contracts.runs import CompactOutcome, ModelCallRequest, ModelTurn, TurnKind


class Definitions(Protocol):
    """Where pinned and current definitions come from."""

    async def by_hash(self, definition_hash: str) -> AgentDefinition:
        """A definition as it was pinned."""
        ...

    async def current(self, name: str) -> AgentDefinition:
        """A definition as it stands now."""
        ...


class ModelActivities:
    """`call_model` and `compact_history`."""

    def __init__(self, gateway: Gateway, definitions: Definitions) -> None:
        self._gateway = gateway
        self._definitions = definitions

    @activity.defn(name=names.CALL_MODEL)
    async def call_model(self, request: ModelCallRequest) -> ModelTurn:
        """Answer one step by a model; a response that is paid already is given again."""
        definition = await self._definitions.by_hash(request.agent.definition_hash)
        neighbours = {name: await self._definitions.current(name) for name in (*definition.agents, *definition.handoffs)}
        seat = Seat(definition, neighbours)

        def keep(answered: Answered) -> Kept:
            read = turns.read_turn(
                request.run_id,
                request.step,
                seat,
                answered.request,
                answered.response,
                answered.price.cost_usd,
                answered.unknown_usd,
            )
            whence = {"provider": answered.provider, "downgraded_from": answered.downgraded_from, "cached": answered.cached}
            turn = read.turn.model_copy(update=whence)
            sound = turn.kind is not TurnKind.INVALID and not turn.invalid_calls
            return Kept(turn.model_dump(mode="json"), read.rows, tuple(read.sub_runs), sound)

        try:
            paid = await self._gateway.pay(
                request, asking.whole(definition, seat.schemas(), activity.info().scheduled_time), activity.info().attempt, keep
            )
        except StepError as error:
            if error.failure_class is FailureClass.CONTEXT:
                return _no_call(request, TurnKind.CONTEXT_FULL, str(error), Decimal(0))
            raise
        if isinstance(paid, Refused):
            kind = TurnKind.CONTEXT_FULL if paid.outcome == "context_full" else TurnKind.LIMIT
            return _no_call(request, kind, _why(request, paid), paid.unknown_usd)
        recorded, unknown_usd = paid
        turn = ModelTurn.model_validate(recorded)
        return turn.model_copy(update=_charged(turn, unknown_usd))

    @activity.defn(name=names.COMPACT)
    async def compact_history(self, request: ModelCallRequest) -> CompactOutcome:
        """Have the conversation summarised; the summary stands for every step before this one from now on."""

        def keep(answered: Answered) -> Kept:
            response = answered.response
            if response.finish not in (FinishReason.STOP, FinishReason.LENGTH) or not response.text.strip():
                raise StepError("The model gave no summary.", failure_class=FailureClass.MODEL_BEHAVIOUR, spend_unknown=True)
            outcome = CompactOutcome(
                usage=response.usage,
                cost_usd=answered.price.cost_usd + answered.unknown_usd,
                unknown_usd=answered.unknown_usd,
                through_step=request.step - 1,
            )
            summary = Message(role=Role.USER, text=summaries.MARK + response.text)
            row = transcripts.row(request.step, summary, summary_through=request.step - 1)
            return Kept(outcome.model_dump(mode="json"), [row])

        paid = await self._gateway.pay(request, summaries.asked(), activity.info().attempt, keep)
        if isinstance(paid, Refused):
            raise StepError(_why(request, paid), failure_class=FailureClass.LIMIT)
        recorded, unknown_usd = paid
        outcome = CompactOutcome.model_validate(recorded)
        return outcome.model_copy(update=_charged(outcome, unknown_usd))


def _charged(recorded: ModelTurn | CompactOutcome, unknown_usd: Decimal) -> dict[str, Decimal]:
    """What it cost with the unknown spend of its step as it stands now: late answers may have settled some of it."""
    return {"cost_usd": recorded.cost_usd - recorded.unknown_usd + unknown_usd, "unknown_usd": unknown_usd}


def _why(request: ModelCallRequest, refused: Refused) -> str:
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


def _no_call(request: ModelCallRequest, kind: TurnKind, reason: str, unknown_usd: Decimal) -> ModelTurn:
    return ModelTurn(
        kind=kind,
        usage=Usage(),
        cost_usd=unknown_usd,
        unknown_usd=unknown_usd,
        reason=reason,
        step=request.step,
        last_step=request.step,
    )
