"""A step's way to a place in a batch: the same as to its answer as far as the books, then it is gathered instead of sent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from activities.inference import budget_waits, planning
from activities.inference.admission import Admission, Admitted
from activities.inference.asking import Answered, Asked, Kept, Refused
from activities.inference.cache import Lead
from activities.inference.payment import Means, Paid, Payment
from activities.inference.providers.batch_api import batch_api_of
from state import batches, model_calls
from state.model_calls import Begun
from state.response_cache import Hit
from workflows.contracts.batches import GatheredCall
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.steps import ModelCallRequest

PRICE_FACTOR = Decimal("0.5")
"""What both providers take for a token in a batch, of its ordinary price."""


@dataclass(frozen=True, slots=True)
class Place:
    """A call that waits for its batch."""

    call_id: int
    provider: str


@dataclass(frozen=True, slots=True)
class Ordinary:
    """No batch can take the call, and why."""

    reason: str


class BatchPayment(Payment):
    """The place of one (run, step) in a batch. It takes no limiter slots: the providers count batches apart."""

    def __init__(self, means: Means, request: ModelCallRequest, asked: Asked, attempt: int, keep: Callable[[Answered], Kept]) -> None:
        super().__init__(means, request, asked, attempt, keep)
        admission = means.admission
        self._unlimited = Admission(means.router.settings, admission.keys, admission.breakers, None)

    async def place(self) -> Place | Paid | Refused | Ordinary:
        """The place that the step has or gets, what is recorded for it already, or why it gets none.

        Raises:
            StepError: a budget has no room now, and is to be waited for.
            UnknownModelError: the agent's model is not known, or has no price.
        """
        database, request = self._means.database, self._request
        self._looked = await model_calls.look(database, request)  # first: it writes down what a person said meanwhile
        if self._looked.turn is not None:
            return self._looked.turn, self._looked.unknown_usd
        found = await batches.open_request(database, request.run_id, request.step)
        if found is not None:
            return Place(*found)
        hit = await self._cached()
        return await self._give(hit) if hit is not None else await self._gather()

    async def _gather(self) -> Place | Paid | Refused | Ordinary:
        while True:
            admitted = await self._admitted()
            if isinstance(admitted, Ordinary):
                return admitted
            self._means.pressure.chose(self._model, admitted.option.candidate)
            begun = await self._begin(admitted)
            if begun.outcome == "go":
                await budget_waits.begun_after(self._means.database, self._request)
                return await self._add(admitted, begun)
            paid = await self._not_begun(admitted, begun)
            if paid is not None:
                return paid

    async def _admitted(self) -> Admitted | Ordinary:
        """The first candidate that is open, by the first key; a breaker's one probe is left to an ordinary call."""
        route = self._route()
        self._left_out = route.considered
        try:
            admitted = await self._unlimited.admit(route, self._wish(route), frozenset(self._tried))
        except StepError as error:
            return Ordinary(str(error))
        option = admitted.option
        if not self._unlimited.is_open(option):
            self._unlimited.not_sent(admitted)
            return Ordinary(f"{option.label} is being probed")
        if batch_api_of(option.key.provider) is None:
            return Ordinary(f"{option.candidate.provider} has no Batch API")
        return admitted

    async def _begin(self, admitted: Admitted) -> Begun:
        plan = planning.plan(self._means.router.settings, self._request, self._asked, admitted, self._left_out)
        half = dataclasses.replace(
            plan,
            reason=f"{plan.reason}; by the Batch API",
            input_usd=plan.input_usd * PRICE_FACTOR,
            output_usd=plan.output_usd * PRICE_FACTOR,
            price_factor=PRICE_FACTOR,
            batch=True,
        )
        return await model_calls.begin(self._means.database, self._request, half)

    async def _add(self, admitted: Admitted, begun: Begun) -> Place:
        candidate = admitted.option.candidate
        call = GatheredCall(
            call=self._request.model_copy(update={"appendices": ()}),
            sent=planning.request(self._asked, self._request, candidate, begun.messages, begun.max_output_tokens),
            price_provider=candidate.price_provider,
            override=candidate.override,
            tier=candidate.tier,
            downgraded_from=candidate.downgraded_from,
        )
        if not await batches.add(self._means.database, begun.call_id, candidate.provider, admitted.option.key.name, call):
            raise StepError("another attempt of this step is under way", failure_class=FailureClass.TRANSIENT, code="same_step")
        return Place(begun.call_id, candidate.provider)

    async def _cached(self) -> Hit | None:
        """A cached answer. Nobody is made to wait for a batch, so the lead is given up at once."""
        cache, key = self._means.cache, self._key()
        if cache is None or key is None:
            return None
        found = await cache.look(key)
        if isinstance(found, Lead):
            await cache.give_up(found)
        return found if isinstance(found, Hit) else None
