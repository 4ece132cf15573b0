"""One step's way to its answer: what is recorded already, the cache, a way in, the books, the call, the record (docs/adr/0011)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from activities.inference import budget_waits, calling, planning
from activities.inference.admission import Admission, Admitted, Request
from activities.inference.asking import Answered, Asked, Kept, Refused
from activities.inference.breaker_rules import key_refused
from activities.inference.cache import Busy, Lead, ResponseCache
from activities.inference.cache_keys import Asker
from activities.inference.pressure import Pressure
from activities.inference.recording import record, settle
from activities.inference.routing import Route, Router, Wanted
from activities.inference.semantic import Found, SemanticCache
from state import model_calls
from state.model_calls import Begun, Looked
from state.pool import Database
from state.response_cache import CacheKey, Hit
from telemetry import inference as telemetry
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import Price
from workflows.contracts.steps import ModelCallRequest

Paid = tuple[dict[str, Any], Decimal]
"""The turn that is recorded for a step, and its unknown spend."""
FOLLOW_S = 2.0
"""How long a step waits in the worker for another one that asks the same."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a payment works with; all of it is shared by the calls of a worker."""

    database: Database
    router: Router
    admission: Admission
    cache: ResponseCache | None = None
    semantic: SemanticCache | None = None
    pressure: Pressure = field(default_factory=Pressure)


class Payment:
    """The answer of one (run, step): found or paid for, never paid twice."""

    def __init__(self, means: Means, request: ModelCallRequest, asked: Asked, attempt: int, keep: Callable[[Answered], Kept]) -> None:
        self._means = means
        self._request = request
        self._asked = asked
        self._attempt = attempt
        self._keep = keep
        self._model = means.router.settings.tasks.get(asked.task, request.agent.model)
        self._looked: Looked | None = None
        self._tried: set[str] = set()
        self._rotated: set[str] = set()
        self._failure: StepError | None = None
        self._lead: Lead | None = None
        self._meant = Found()
        self._left_out: tuple[tuple[str, str], ...] = ()

    async def pay(self) -> Paid | Refused:
        """Give the recorded turn, calling a model only if none is recorded yet and no cache holds it.

        Raises:
            StepError: no candidate could answer now; the class says what happens next.
            UnknownModelError: the agent's model is not known, or has no price.
        """
        if self._must_look():
            self._looked = await model_calls.look(self._means.database, self._request)
            if self._looked.turn is not None:
                return self._looked.turn, self._looked.unknown_usd
        try:
            hit = await self._found()
            return await self._give(hit) if hit is not None else await self._ask()
        except StepError as error:
            stale = await self._stale(error)
            if stale is None:
                raise
            return await self._give(stale)
        finally:
            if self._lead is not None and self._means.cache is not None:
                await self._means.cache.give_up(self._lead)

    def _must_look(self) -> bool:
        """Whether the conversation's size, or what came of earlier attempts, matters before anything is reserved."""
        means = self._means
        chooses = means.router.chooses(self._model)
        return (
            (self._asked.cache is not None and means.cache is not None)
            or (means.admission.limiter is not None and means.admission.limited.by_anything(planning.caller(self._request)))
            or (chooses and (self._attempt > 1 or self._request.previous is not None))
        )

    async def _ask(self) -> Paid | Refused:
        while True:
            route = self._route()
            self._left_out = route.considered
            try:
                admitted = await self._means.admission.admit(route, self._wish(route), frozenset(self._tried))
            except StepError as none_left:
                if self._failure is not None and none_left.code in ("no_candidate", "no_key"):
                    raise self._failure from None
                raise
            self._means.pressure.chose(self._model, admitted.option.candidate)
            paid = await self._try(admitted)
            if paid is not None:
                return paid

    def _route(self) -> Route:
        return self._means.router.route(
            Wanted(
                model=self._model,
                needs=planning.needs(self._asked, self._looked),
                seed=f"{self._request.run_id}:{self._request.step}",
                failures=self._looked.failures if self._looked else {},
                warm=planning.warm(self._looked),
                pressure=self._means.pressure.on(self._means.router.settings, self._request),
                tempted=self._means.pressure.tempted,
            )
        )

    def _wish(self, route: Route) -> Request:
        return Request(
            caller=planning.caller(self._request),
            ticket=f"{self._request.run_id}:{self._request.step}",
            priority=self._request.priority,
            estimate=planning.estimate(self._asked, self._looked),
            seed=f"{self._request.run_id}:{self._request.step}:{self._attempt}",
        )

    async def _try(self, admitted: Admitted) -> Paid | Refused | None:
        """One call, from its reservation to its record; None when the next option should be tried."""
        begun = await self._begin(admitted)
        if begun.outcome != "go":
            self._means.admission.not_sent(admitted)
            return await self._not_begun(admitted, begun)
        if self._attempt > 1 or any(entry.on_hard == "wait" for entry in self._means.router.settings.budgets.values()):
            await budget_waits.begun_after(self._means.database, self._request)
        try:
            with admitted.option.key.in_use():
                answered = await self._call(admitted, begun)
        except StepError as error:
            if self._goes_on(admitted, error):
                self._failure = error
                return None
            raise
        return await self._read_and_record(begun, answered)

    async def _begin(self, admitted: Admitted) -> Begun:
        plan = planning.plan(self._means.router.settings, self._request, self._asked, admitted, self._left_out)
        try:
            return await model_calls.begin(self._means.database, self._request, plan)
        except BaseException:
            self._means.admission.not_sent(admitted)
            raise

    async def _not_begun(self, admitted: Admitted, begun: Begun) -> Paid | Refused | None:
        if begun.outcome == "recorded":
            return begun.turn or {}, begun.unknown_usd
        if begun.outcome == "context_full" and self._has_larger(admitted):
            self._tried.add(admitted.option.label)
            return None
        for each in begun.refusals:
            telemetry.record_budget_refusal(each.name, each.dimension)
        if begun.outcome == "over_budget":
            delay = await budget_waits.delay(self._means.database, self._means.router.settings, self._request, begun)
            if delay is not None:
                raise delay
        return Refused(begun.outcome, begun.unknown_usd, begun.refused_by, begun.refusals)

    def _has_larger(self, admitted: Admitted) -> bool:
        window = admitted.option.candidate.worst.window_tokens
        return any(each.worst.window_tokens > window for each in self._route().candidates)

    async def _call(self, admitted: Admitted, begun: Begun) -> Answered:
        option, conversation = admitted.option, begun.messages
        sent = planning.request(self._asked, self._request, option.candidate, conversation, begun.max_output_tokens)
        try:
            response, price = await calling.call(
                option.key.provider, option.candidate, sent, self._request.agent.name, self._request.agent.model
            )
        except StepError as error:
            await self._failed(admitted, begun, error)
            raise
        except BaseException as error:
            # Cancelled, or a bug of ours: the provider may well have billed.
            self._means.admission.gave_up(admitted)
            unknown = StepError(f"{type(error).__name__} in mid-call", failure_class=FailureClass.CODE, spend_unknown=True)
            await asyncio.shield(settle(self._means.database, begun.call_id, unknown))
            raise
        self._means.admission.succeeded(admitted, response)
        if option.candidate.downgraded_from:
            telemetry.record_downgrade(option.candidate.downgraded_from, option.candidate.tier, agent=self._request.agent.name)
        return Answered(
            sent,
            response,
            price,
            begun.unknown_usd,
            provider=option.candidate.provider,
            downgraded_from=option.candidate.downgraded_from,
            aside_usd=self._meant.cost_usd,
        )

    async def _failed(self, admitted: Admitted, begun: Begun, error: StepError) -> None:
        """Close the books of a failed call. Its option is not taken again in this attempt, but once more if its key was rotated."""
        label, rotated = admitted.option.label, False
        try:
            rotated = await self._means.admission.failed(admitted, error)
        finally:
            self._tried.update({label} if not rotated or label in self._rotated else ())
            self._rotated.update({label} if rotated else ())
            await asyncio.shield(settle(self._means.database, begun.call_id, error))

    async def _read_and_record(self, begun: Begun, answered: Answered) -> Paid:
        try:
            kept = self._keep(answered)
        except StepError as error:
            await settle(self._means.database, begun.call_id, error)
            raise
        except Exception as error:
            bug = StepError(f"{type(error).__name__} while the answer was read", failure_class=FailureClass.CODE, spend_unknown=True)
            await settle(self._means.database, begun.call_id, bug)
            raise
        turn = await record(self._means.database, begun.call_id, answered, kept)
        if self._lead is not None and self._means.cache is not None and kept.sound:
            await self._means.cache.keep(self._lead, answered.response, answered.price.cost_usd)
        return turn, begun.unknown_usd

    def _goes_on(self, admitted: Admitted, error: StepError) -> bool:
        """Whether another candidate or key may do what this one refused; the caller's own errors never go on."""
        match error.failure_class:
            case FailureClass.QUOTA:
                return True
            case FailureClass.CALLER:
                return key_refused(error.failure_class, error.code)
            case FailureClass.THROTTLED:
                return (error.retry_after_s or 0.0) > self._means.router.settings.limiter.in_process_wait_s
            case FailureClass.TRANSIENT:
                return not self._means.admission.is_open(admitted.option)
        return False

    async def _found(self) -> Hit | None:
        """The cached answer, after waiting for another step that asks the same; else this step leads, where the cache is asked at all."""
        cache, key = self._means.cache, self._key()
        if cache is None or key is None:
            return None
        found = await cache.look(key)
        if isinstance(found, Busy):
            hit = await cache.follow(key, FOLLOW_S)
            found = hit if hit is not None else await cache.look(key)
        if isinstance(found, Busy):
            raise StepError(
                f"delayed, about {FOLLOW_S:.0f} s: another run asks a model for the same answer",
                failure_class=FailureClass.THROTTLED,
                retry_after_s=FOLLOW_S,
                code="same_request",
                exact=True,
            )
        hit = await self._meaning_same(cache, found) if isinstance(found, Lead) else found
        telemetry.record_cache(hit.kind if hit is not None else "miss", agent=self._request.agent.name)
        return hit

    async def _meaning_same(self, cache: ResponseCache, lead: Lead) -> Hit | None:
        """This step leads, unless the answer to a question that means the same is there."""
        self._lead = lead
        if self._means.semantic is None:
            return None
        self._meant = await self._means.semantic.find(lead, self._request, self._means.router, self._means.admission)
        return None if self._meant.hit is None else cache.landed(lead, self._meant.hit)

    async def _stale(self, error: StepError) -> Hit | None:
        """An old answer, where no model can be reached at all."""
        cache, key = self._means.cache, self._key()
        return await cache.stale(key) if cache is not None and key is not None and error.code == "no_open_model" else None

    def _key(self) -> CacheKey | None:
        """What the step asks, as the cache knows it; the first candidate stands for the tier."""
        if self._means.cache is None or self._looked is None or self._asked.cache is None:
            return None
        candidate = self._means.router.candidates(self._model)[0]
        sent = planning.request(self._asked, self._request, candidate, self._looked.messages, self._asked.max_output_tokens)
        asker = Asker(self._request.tenant, self._request.agent.name, self._request.user)
        return self._means.cache.key(sent, self._model, self._asked.cache, asker)

    async def _give(self, hit: Hit) -> Paid | Refused:
        """Record a cached answer under this step: it costs nothing."""
        provider, _, model = hit.model.partition(":") if ":" in hit.model else ("cache", "", hit.response.model)
        begun = await model_calls.begin(
            self._means.database, self._request, planning.free_plan(self._request, self._asked, provider, model, hit)
        )
        if begun.outcome != "go":
            return (begun.turn or {}, begun.unknown_usd) if begun.outcome == "recorded" else Refused(begun.outcome, begun.unknown_usd, None)
        sent = planning.request(self._asked, self._request, self._means.router.candidates(self._model)[0], begun.messages, 1)
        free = Price(cost_usd=Decimal(0), version="cache")
        answered = Answered(sent, hit.response, free, begun.unknown_usd, provider, cached=hit.kind, aside_usd=self._meant.cost_usd)
        return await self._read_and_record(begun, answered)
