"""The activities of a model call that can wait for the provider's Batch API."""

from __future__ import annotations

from decimal import Decimal

from temporalio import activity

from activities.inference import answering, asking
from activities.inference.answering import Definitions
from activities.inference.asking import Answered, Kept
from activities.inference.batch_answers import BatchAnswers
from activities.inference.batch_courier import Courier
from activities.inference.batch_payment import BatchPayment, Ordinary, Place
from activities.inference.gateway import Gateway
from state import batches
from state.batches import Standing
from workflows.contracts import names
from workflows.contracts.batches import BatchLook, BatchPlace, BatchState
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.steps import ModelCallRequest, ModelTurn, TurnKind


class BatchActivities:
    """`submit_batch`, `collect_batch` and `leave_batch`."""

    def __init__(self, gateway: Gateway, definitions: Definitions) -> None:
        self._gateway = gateway
        self._definitions = definitions

    @activity.defn(name=names.SUBMIT_BATCH)
    async def submit_batch(self, request: ModelCallRequest) -> BatchPlace:
        """Put one step's model call among those that are gathered for a batch, its worst case reserved."""
        seat = await answering.seat_of(self._definitions, request)

        def keep(answered: Answered) -> Kept:
            return answering.kept(request, seat, answered)

        info, means = activity.info(), self._gateway.means
        asked = asking.whole(seat.definition, seat.schemas(), info.scheduled_time)
        found = await BatchPayment(means, request, asked, info.attempt, keep).place()
        if isinstance(found, Ordinary):
            return BatchPlace(ordinary=found.reason)
        if not isinstance(found, Place):
            return BatchPlace(turn=answering.turn_of(request, found))
        settings = means.router.settings.batch
        return BatchPlace(
            call_id=found.call_id,
            provider=found.provider,
            gather_s=settings.gather_s,
            first_look_s=settings.first_look_s,
            longest_look_s=settings.longest_look_s,
        )

    @activity.defn(name=names.COLLECT_BATCH)
    async def collect_batch(self, look: BatchLook) -> BatchState:
        """Hand the batch in, or look at it; what it has brought is recorded for every run in it."""
        await self._courier().attend(look.call_id, at_once=look.at_once)
        standing = await batches.standing(self._gateway.means.database, look.call_id)
        return BatchState(ordinary="its place is gone") if standing is None else _state(look.call, standing)

    @activity.defn(name=names.LEAVE_BATCH)
    async def leave_batch(self, look: BatchLook) -> None:
        """Give the call up: nobody waits for its answer any more."""
        left = await batches.leave(self._gateway.means.database, look.call_id)
        if left is not None:
            await self._courier().cancel(left)

    def _courier(self) -> Courier:
        means = self._gateway.means
        return Courier(means, BatchAnswers(means.database, self._definitions))


def _state(call: ModelCallRequest, standing: Standing) -> BatchState:
    """What a run hears of its request.

    Raises:
        StepError: the request itself was refused; an ordinary call would be too.
    """
    if standing.turn is not None:
        return BatchState(turn=answering.charged(ModelTurn.model_validate(standing.turn), standing.unknown_usd))
    if standing.call_state == "in_flight":
        return BatchState(handed_in_at=standing.sent_at)
    why = standing.failure or "its batch brought no answer"
    if standing.failure_class == FailureClass.CONTEXT:
        return BatchState(turn=answering.no_call(call, TurnKind.CONTEXT_FULL, why, Decimal(0)))
    if standing.failure_class == FailureClass.CALLER and not standing.goes_on:
        raise StepError(why, failure_class=FailureClass.CALLER, code="refused_in_batch")
    return BatchState(ordinary=why)
