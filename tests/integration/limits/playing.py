"""Callers who ask, use more or less than they reserved, or give back, on a clock that the game moves; and what must hold of their calls."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from activities.inference.limiter import Alternative, Ask, Bucket, BucketKind, Demand, Lease, Limiter, Slot
from tests.integration.limits.asking import DEFAULTS, requests, tokens
from tests.integration.limits.clock import Clock
from workflows.contracts.inference import Priority
from workflows.contracts.messages import Usage

PERIOD_S = 2.0
PASSED_BY_S = dict(zip(Priority, (0.0, 1.0, 4.0, 20.0, 60.0), strict=True))
GRAIN_S = 1e-5
"""Moments are floats, and so compared: two calls exactly a period apart are not in one window."""
NAMES = itertools.count()


@dataclass
class Call:
    """A call that was given a slot, and what became of it."""

    limiter: Limiter
    lease: Lease
    reserved: Mapping[str, float]
    given_at: float
    counted: dict[str, float]
    """What it took in the end; never more than reserved: an excess is charged to what comes after."""
    ended_at: float = float("inf")


@dataclass
class Game:
    """Three workers, two models, one account."""

    clock: Clock
    limiters: list[Limiter]
    requests_a_period: float
    tokens_a_period: float
    headroom: float
    calls: list[Call] = field(default_factory=list)
    waiting: dict[str, tuple[float, int, Ask]] = field(default_factory=dict)
    """Ticket → when it asks again, by which worker."""
    reserved_at: dict[str, float] = field(default_factory=dict)
    """Ticket → when its slot was given, where that was before it was claimed."""

    def __post_init__(self) -> None:
        """Limits that no other game has."""
        self.name = f"g{next(NAMES)}"
        self.account = requests(self.requests_a_period, f"provider:{self.name} requests", self.headroom, PERIOD_S)
        self.models = [
            replace(tokens(self.tokens_a_period * share, f"model:{self.name}:{place} tokens", self.headroom), period_s=PERIOD_S)
            for place, share in enumerate((1.0, 0.5))
        ]

    async def ask(self, worker: int, models: tuple[int, ...], amount: float, priority: Priority) -> None:
        """A new call, by one model or the one of two that is sooner."""
        alternatives = tuple(
            Alternative(f"m{model}", (Demand(self.account, 1.0), Demand(self.models[model], min(amount, self.models[model].usable))))
            for model in models
        )
        ticket = f"{self.name}-{len(self.calls)}-{len(self.waiting)}-{next(NAMES)}:1"
        await self._ask(worker, Ask(ticket, priority, alternatives, DEFAULTS.horizon_s[priority], PASSED_BY_S[priority]))

    async def _ask(self, worker: int, ask: Ask) -> None:
        limiter = self.limiters[worker]
        given = await limiter.acquire(ask)
        self.waiting.pop(ask.ticket, None)
        if not isinstance(given, Slot):
            self.waiting[ask.ticket] = (self.clock.now_s + given.wait_s, worker, ask)
        elif not given.lease.held:
            self.reserved_at.setdefault(ask.ticket, self.clock.now_s)
            self.waiting[ask.ticket] = (given.lease.slot_at - 1.0, (worker + 1) % len(self.limiters), ask)
        else:
            reserved = {demand.bucket.name: demand.amount for demand in given.lease.alternative.demands}
            given_at = self.reserved_at.get(ask.ticket, self.clock.now_s)
            self.calls.append(Call(limiter, given.lease, reserved, given_at, dict(reserved)))

    async def settle(self, place: int, part: float) -> None:
        """A call ends, or is given back when its slot has not come."""
        open_ = [call for call in self.calls if call.lease.open]
        if not open_:
            return
        call = open_[place % len(open_)]
        call.ended_at = self.clock.now_s
        tokens_name = next(name for name in call.reserved if "tokens" in name)
        if call.lease.slot_at > self.clock.now_s or part == 0:
            call.limiter.give_back(call.lease)
            call.counted = dict.fromkeys(call.reserved, 0.0)
        else:
            used = int(call.reserved[tokens_name] * part)
            call.limiter.settle(call.lease, Usage(input_tokens=used))
            call.counted[tokens_name] = min(used, call.reserved[tokens_name])
        await self._heard(call.limiter)

    async def _heard(self, limiter: Limiter) -> None:
        """A batch carries all that has gathered: when this is answered, the rest is in the books."""
        other = Demand(Bucket(f"other:{self.name}", BucketKind.RATE, self.account.measure, 1e9), 1.0)
        alternative = Alternative("other", (other,))
        await limiter.acquire(Ask(f"{self.name}-other-{next(NAMES)}:1", Priority.NORMAL, (alternative,), 6.0, 0.0))

    async def go_on(self, seconds: float) -> None:
        """Time passes; who waits asks again at the moment that was told."""
        end = self.clock.now_s + seconds
        for _ in range(40):
            due = sorted((at, ticket) for ticket, (at, _, _) in self.waiting.items() if at <= end)
            if not due:
                break
            at, ticket = due[0]
            await self.clock.move_to(at)
            await self._ask(self.waiting[ticket][1], self.waiting[ticket][2])
        await self.clock.move_to(end)

    def check(self) -> None:
        """In no window of one period more than the limit, and what calls from before it gave back once its first call had its slot."""
        for bucket in (self.account, *self.models):
            for first in self.calls:
                start = first.lease.slot_at
                within = (call for call in self.calls if start <= call.lease.slot_at < start + PERIOD_S - GRAIN_S)
                taken = sum(call.counted.get(bucket.name, 0.0) for call in within)
                before = (call for call in self.calls if call.lease.slot_at < start and first.given_at <= call.ended_at < start + PERIOD_S)
                back = sum(call.reserved.get(bucket.name, 0.0) - call.counted.get(bucket.name, 0.0) for call in before)
                assert taken <= bucket.limit + back + 1e-6, (
                    f"{taken} of {bucket.limit} and {back} in the window from {start}: {bucket.name}"
                )
