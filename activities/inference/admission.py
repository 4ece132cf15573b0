"""Which candidate, by which key, and when: what is open, what has room, and the slot that the limiter gives."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from activities.inference.breaker_rules import Scopes, key_refused
from activities.inference.breakers import Breakers, Standing
from activities.inference.demands import Caller, Estimate, Limited, demands
from activities.inference.limiter import Alternative, Ask, Lease, Limiter, Postponed, Slot
from activities.inference.providers.protocol import Provider
from activities.inference.routing import Candidate, Route, weighted_order
from activities.inference.told_limits import refusing
from telemetry import inference as telemetry
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import InferenceSettings, Priority
from workflows.contracts.messages import ModelResponse
from workflows.contracts.provider_settings import Rates

log = structlog.get_logger("holdfast.inference")

KEY_WAIT_S = 2.0
"""How long a step is sent away for when the command that prints its only key still runs."""
EARLY_S = 1.0
"""How long before its slot a postponed step comes back: Temporal's timers are not to the millisecond, a slot is."""
COME_BACK = 0.6
"""The part of an expected wait after which a step without a slot asks again: a handful of times over the longest backlog."""


class Key(Protocol):
    """One key of a provider, open."""

    @property
    def name(self) -> str:
        """Its name in the settings; empty where the provider wants no key."""
        ...

    @property
    def weight(self) -> float:
        """Its part of the calls."""
        ...

    @property
    def limits(self) -> Rates:
        """What this key may do."""
        ...

    @property
    def provider(self) -> Provider:
        """The connection that uses it."""
        ...

    def in_use(self) -> AbstractContextManager[object]:
        """Keep the connection open for the length of the block."""
        ...


class Keys(Protocol):
    """The open keys by provider."""

    def keys(self, provider: str) -> Sequence[Key]:
        """The provider's keys that can be used now; empty when it has none on this worker."""
        ...

    def expected(self, provider: str) -> bool:
        """Whether a key of the provider is on its way."""
        ...

    async def refused(self, provider: str, key: Key) -> bool:
        """The provider refused the key: read it again; whether it is another one by now."""
        ...


@dataclass(frozen=True, slots=True)
class Option:
    """One candidate by one key."""

    candidate: Candidate
    key: Key

    @property
    def scopes(self) -> tuple[str, ...]:
        """The breakers that watch it."""
        return Scopes(self.candidate.provider, self.candidate.model, self.key.name).names

    @property
    def label(self) -> str:
        """How it is told in decisions: PROVIDER:MODEL, with the key's name where there is one."""
        return f"{self.candidate.name} by {self.key.name}" if self.key.name else self.candidate.name


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may go out now."""

    option: Option
    lease: Lease | None = None
    told_s: float | None = None
    """The wait that was told when it was first asked for."""


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks, and what for."""

    caller: Caller
    ticket: str
    priority: Priority
    estimate: Estimate
    seed: str


class Admission:
    """Finds the way in. Without limits and troubles it costs nothing."""

    def __init__(self, settings: InferenceSettings, keys: Keys, breakers: Breakers | None, limiter: Limiter | None) -> None:
        self.keys = keys
        self._settings = settings
        self.breakers = breakers
        self.limiter = limiter
        self.limited = Limited(settings)

    async def admit(self, route: Route, request: Request, without: frozenset[str]) -> Admitted:
        """The option that may go now; waits for its slot when that is near.

        Args:
            without: labels of options that have failed in this attempt already.

        Raises:
            StepError: throttled, with the time of the slot or of the next open door; or the reason why no option is left.
        """
        options, closed = await self._options(route, request.seed, without)
        if not options:
            raise self._nothing_open(route, closed)
        alternatives = [self._alternative(option, request) for option in options] if self.limiter else []
        if self.limiter is None or not any(alternative.demands for alternative in alternatives):
            return Admitted(options[0])
        try:
            return await self._slot(self.limiter, options, alternatives, request)
        except BaseException:
            # Where an option is a breaker's one probe, it is the only option; another call may send it now.
            self._unsent(options[0])
            raise

    async def _slot(self, limiter: Limiter, options: Sequence[Option], alternatives: Sequence[Alternative], request: Request) -> Admitted:
        """The option that has room, at its time."""
        settings = self._settings.limiter
        ask = Ask(
            ticket=request.ticket,
            priority=request.priority,
            alternatives=tuple(alternatives),
            horizon_s=settings.horizon_s[request.priority],
            passed_by_s=settings.passed_by_s[request.priority],
        )
        given = await limiter.acquire(ask)
        if isinstance(given, Postponed):
            # Earlier than expected: had it been told too much, nobody would be there to take the room.
            raise delayed(given.wait_s, given.limit, back_in_s=given.wait_s * COME_BACK)
        return await self._at_its_time(options[given.index], given, settings.in_process_wait_s)

    async def _at_its_time(self, option: Option, slot: Slot, patience_s: float) -> Admitted:
        """Wait for a near slot here; for a far one the step leaves the worker, and finds it again by its ticket."""
        if slot.delay_s > patience_s:
            raise delayed(slot.delay_s, slot.limit)
        if slot.delay_s > 0:
            try:
                await asyncio.sleep(slot.delay_s)
            except asyncio.CancelledError:
                if self.limiter is not None:
                    self.limiter.give_back(slot.lease)
                raise
        if slot.told_s:
            telemetry.record_limit_wait(slot.told_s)
        return Admitted(option, slot.lease, slot.told_s)

    def is_open(self, option: Option) -> bool:
        """Whether its breakers let ordinary calls through."""
        return self.breakers is None or self.breakers.standing(option.scopes).free

    def succeeded(self, admitted: Admitted, response: ModelResponse) -> None:
        """Tell breakers and limiter of an answer."""
        if self.breakers is not None:
            self.breakers.succeeded(admitted.option.scopes)
        if self.limiter is not None and admitted.lease is not None:
            self.limiter.told(admitted.lease, response.told)
            self.limiter.settle(admitted.lease, response.usage)

    async def failed(self, admitted: Admitted, error: StepError) -> bool:
        """Tell breakers and limiter of a failure; what may have been billed stays taken.

        Returns:
            Whether the option is worth asking again: its key was refused, and has another secret by now.
        """
        if self.limiter is not None and admitted.lease is not None:
            self.limiter.told(admitted.lease, error.told)
            if error.failure_class is FailureClass.THROTTLED and error.retry_after_s:
                self.limiter.cool_down(refusing(admitted.lease.alternative), error.retry_after_s)
            if error.spend_unknown:
                self.limiter.settle(admitted.lease, None)
            else:
                self.limiter.give_back(admitted.lease)
        option, rotated = admitted.option, False
        try:
            if key_refused(error.failure_class, error.code):
                rotated = await self.keys.refused(option.candidate.provider, option.key)
        finally:
            if self.breakers is not None and rotated:
                self.breakers.gave_up(option.scopes, sent=False)
            elif self.breakers is not None:
                self.breakers.failed(option.scopes, error.failure_class, retry_after_s=error.retry_after_s, code=error.code)
        return rotated

    def gave_up(self, admitted: Admitted) -> None:
        """The call was cut short: its limits stay taken, a probe says nothing."""
        if self.breakers is not None:
            self.breakers.gave_up(admitted.option.scopes)
        if self.limiter is not None and admitted.lease is not None:
            self.limiter.settle(admitted.lease, None)

    def not_sent(self, admitted: Admitted) -> None:
        """The call was not made after all: everything is given back."""
        self._unsent(admitted.option)
        if self.limiter is not None and admitted.lease is not None:
            self.limiter.give_back(admitted.lease)

    def _unsent(self, option: Option) -> None:
        if self.breakers is not None:
            self.breakers.gave_up(option.scopes, sent=False)

    def _alternative(self, option: Option, request: Request) -> Alternative:
        candidate = option.candidate
        learned = self.limiter.learned(candidate.name) if self.limiter else None
        wanted = demands(self._settings, candidate.name, option.key.name, option.key.limits, request.caller, request.estimate, learned)
        return Alternative(
            label=option.label, demands=wanted, penalty_s=candidate.penalty_s, model=candidate.name, estimate=request.estimate
        )

    async def _options(self, route: Route, seed: str, without: frozenset[str]) -> tuple[list[Option], list[Standing]]:
        options: list[Option] = []
        closed: list[Standing] = []
        for candidate in route.candidates:
            for key in weighted_order(self.keys.keys(candidate.provider), lambda key: key.weight, seed):
                option = Option(candidate, key)
                if option.label in without:
                    continue
                standing = self.breakers.standing(option.scopes) if self.breakers else None
                if standing is None or standing.free:
                    options.append(option)
                elif standing.due and standing.state == "probe_due" and not options and await self._claim(option):
                    return [option], closed
                else:
                    closed.append(standing)
        return options, closed

    async def _claim(self, option: Option) -> bool:
        return self.breakers is not None and await self.breakers.claim_probe(*option.scopes)

    def _nothing_open(self, route: Route, closed: Sequence[Standing]) -> StepError:
        if closed:
            soonest = min(closed, key=lambda standing: standing.wait_s)
            final = {_final_class(standing) for standing in closed}
            told = f"every model that could answer is closed; the first of them, {soonest.scope}, opens in about {soonest.wait_s:.0f} s"
            return StepError(
                f"delayed, {told}: {soonest.reason}",
                failure_class=_final_class(soonest) or FailureClass.THROTTLED if None not in final else FailureClass.THROTTLED,
                retry_after_s=max(0.5, soonest.wait_s),
                code="no_open_model",
            )
        keyless = sorted({candidate.provider for candidate in route.candidates if not self.keys.keys(candidate.provider)})
        expected = next(filter(self.keys.expected, keyless), None)
        if expected is not None:
            return delayed(KEY_WAIT_S, f"the key of provider {expected!r} is being read")
        if keyless:
            return StepError(
                f"Provider {keyless[0]!r} has no key on this worker: set its environment variable "
                "(`holdfast doctor` names it) and redrive.",
                failure_class=FailureClass.CALLER,
                code="no_key",
            )
        why = "; ".join(f"{name}: {reason}" for name, reason in route.considered) or "no candidate is configured"
        return StepError(f"No model can answer: {why}.", failure_class=FailureClass.CALLER, code="no_candidate")


def delayed(wait_s: float, limit: str, back_in_s: float | None = None) -> StepError:
    """The step leaves the worker, and comes back when its slot is near, or to learn more of when that is."""
    return StepError(
        f"delayed, about {wait_s:.0f} s: {limit}",
        failure_class=FailureClass.THROTTLED,
        retry_after_s=max(0.05, min(wait_s - EARLY_S, wait_s if back_in_s is None else back_in_s)),
        code="own_limit",
        exact=True,
    )


def _final_class(standing: Standing) -> FailureClass | None:
    """The class of what closed a breaker, where waiting does not help: a used-up quota, a refused key."""
    return next((each for each in (FailureClass.QUOTA, FailureClass.CALLER) if standing.reason.startswith(each.value)), None)
