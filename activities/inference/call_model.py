"""The activities that ask a model: the agent's next turn, and the summary of a history grown too long."""

from __future__ import annotations

from decimal import Decimal

from temporalio import activity

from activities.inference import answering, asking, summaries
from activities.inference.answering import Definitions
from activities.inference.asking import Answered, Kept, Refused
from activities.inference.gateway import Gateway
from state import transcripts
from workflows.contracts import names
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, Message, Role
from workflows.contracts.steps import CompactOutcome, ModelCallRequest, ModelTurn, TurnKind


class ModelActivities:
    """`call_model` and `compact_history`."""

    def __init__(self, gateway: Gateway, definitions: Definitions) -> None:
        self._gateway = gateway
        self._definitions = definitions

    @activity.defn(name=names.CALL_MODEL)
    async def call_model(self, request: ModelCallRequest) -> ModelTurn:
        """Answer one step by a model; a response that is paid already is given again."""
        seat = await answering.seat_of(self._definitions, request)

        def keep(answered: Answered) -> Kept:
            return answering.kept(request, seat, answered)

        info = activity.info()
        try:
            paid = await self._gateway.pay(request, asking.whole(seat.definition, seat.schemas(), info.scheduled_time), info.attempt, keep)
        except StepError as error:
            if error.failure_class is FailureClass.CONTEXT:
                return answering.no_call(request, TurnKind.CONTEXT_FULL, str(error), Decimal(0))
            raise
        return answering.turn_of(request, paid)

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
            raise StepError(answering.why(request, paid), failure_class=FailureClass.LIMIT)
        recorded, unknown_usd = paid
        return answering.charged(CompactOutcome.model_validate(recorded), unknown_usd)
