"""Eight workers and a provider that goes down, and whatever else may happen to a breaker, in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from activities.inference.breaker_rules import Scopes
from activities.inference.breakers import Breakers
from devstack.stack import RunningStack
from state import breakers
from state.pool import Database
from tests.integration.inference.breaker_world import SETTINGS, breaker, pass_time, told, worker
from workflows.contracts.errors import FailureClass

WORKERS = 8
PERIODS = 6
ROUNDS = 4


class Provider:
    """A provider that is up or down, and the journal of what reached it while its breaker was not closed."""

    def __init__(self) -> None:
        self.up = True
        self.calls = 0

    async def answer(self, one: Breakers, scopes: Scopes) -> None:
        self.calls += 1
        if self.up:
            one.succeeded(scopes)
        else:
            one.failed(scopes.names, FailureClass.TRANSIENT, code="unreachable")


async def everybody_asks(workers: list[Breakers], provider: Provider, scopes: Scopes) -> int:
    """Every worker has a call to make, all at once; how many of them were sent."""
    before = provider.calls

    async def ask(one: Breakers) -> None:
        standing = one.standing(scopes)
        if standing.free or (standing.state == "probe_due" and await one.claim_probe(*scopes)):
            await provider.answer(one, scopes)

    await asyncio.gather(*(ask(one) for one in workers for _ in range(3)))
    await told(*workers)
    return provider.calls - before


async def test_eight_workers_send_one_probe_a_period_and_notice_within_one_that_it_is_back(database: Database) -> None:
    scopes = Scopes("eight-workers", "m-1", "main")
    workers = [worker(database, f"worker-{number}") for number in range(WORKERS)]
    provider = Provider()
    provider.up = False
    await everybody_asks(workers, provider, scopes)
    assert provider.calls == WORKERS * 3, "the outage came upon all of them"
    found = await breaker(database, scopes.names[0])
    assert found is not None
    assert found.state == "open"

    sent = []
    for _ in range(PERIODS):
        sent.append(await everybody_asks(workers, provider, scopes))
        await pass_time(database, SETTINGS.open_s / 2, "%eight-workers%")
        await told(*workers)
        sent.append(await everybody_asks(workers, provider, scopes))
        await pass_time(database, SETTINGS.open_s / 2, "%eight-workers%")
        await told(*workers)
    assert sum(sent) == PERIODS - 1, f"one a period from the first full one on: {sent}"
    assert max(sent) == 1

    provider.up = True
    assert await everybody_asks(workers, provider, scopes) == 1, "the probe of this period"
    assert await everybody_asks(workers, provider, scopes) == WORKERS * 3, "all go on at once"
    found = await breaker(database, scopes.names[0])
    assert found is not None
    assert (found.state, found.probes, found.openings) == ("closed", PERIODS, 1)


class BreakerMachine(RuleBasedStateMachine):
    """Three workers, one provider with one key. Time goes on only when a rule says so, but for what the rules themselves take."""

    loop: asyncio.AbstractEventLoop
    database: Database
    seen: set[str]
    number = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).number += 1
        self.scopes = Scopes(f"machine-{type(self).__qualname__}-{type(self).number}", "m-1", "main")
        self.workers = [worker(self.database, f"{self.scopes.provider}-{name}") for name in range(3)]
        self.provider = Provider()
        self.now_s = 0.0
        self.probed_at: list[float] = []
        self.in_the_air: list[Breakers] = []
        self.forced: str | None = None
        self._wait(told(*self.workers))

    def _wait(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        """A worker has a call to make; a probe may stay in the air."""
        one = data.draw(st.sampled_from(self.workers), label="worker")
        standing = one.standing(self.scopes)
        if standing.free:
            assert self.forced != "open", "held open by hand, and known to all"
            self._wait(self.provider.answer(one, self.scopes))
        elif standing.state == "probe_due" and self._wait(one.claim_probe(*self.scopes)):
            assert self.forced is None
            assert not self.probed_at or self.now_s - self.probed_at[-1] >= SETTINGS.open_s, "one probe a period"
            self.probed_at.append(self.now_s)
            self.seen.add("probed")
            if data.draw(st.booleans(), label="slow"):
                self.in_the_air.append(one)
            else:
                self._end_probe(one)
        else:
            assert self.forced != "closed", "held closed by hand, and known to all"
        self._wait(told(*self.workers))

    def _end_probe(self, one: Breakers) -> None:
        self._wait(self.provider.answer(one, self.scopes))
        self._wait(told(*self.workers))
        if self.provider.up:
            found = self._wait(breaker(self.database, self.scopes.names[0]))
            assert found.state == "closed", "a good probe closes"
            self.seen.add("closed by a probe")

    @rule(data=st.data())
    def end_a_probe(self, data: st.DataObject) -> None:
        if self.in_the_air:
            one = data.draw(st.sampled_from(self.in_the_air), label="prober")
            self.in_the_air.remove(one)
            self._end_probe(one)

    @rule()
    def a_prober_dies(self) -> None:
        """Its place is taken by a worker that knows nothing of it."""
        if self.in_the_air:
            dead = self.in_the_air.pop()
            heir = f"{self.scopes.provider}-heir-{len(self.probed_at)}-{self.now_s:g}"
            self.workers[self.workers.index(dead)] = worker(self.database, heir)
            self._wait(told(*self.workers))
            self.seen.add("prober died")

    @rule(up=st.booleans())
    def turn(self, up: bool) -> None:
        self.provider.up = up

    @rule(data=st.data())
    def go_down(self, data: st.DataObject) -> None:
        """An outage in the midst of calls of all workers."""
        self.provider.up = False
        for _ in range(2 * SETTINGS.consecutive_failures):
            self.ask(data)

    @rule(seconds=st.sampled_from([1, SETTINGS.open_s, SETTINGS.open_s]))
    def time_passes(self, seconds: float) -> None:
        """Longer than a probe's claim holds, too: nobody renews it here."""
        self.now_s += seconds
        self._wait(pass_time(self.database, seconds, f"%{self.scopes.provider}%"))
        self._wait(told(*self.workers))

    async def _quota(self, one: Breakers) -> None:
        one.failed(self.scopes.names, FailureClass.QUOTA, code="insufficient_quota")

    @rule(data=st.data())
    def quota_is_used_up(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.workers), label="worker")
        if not one.standing(self.scopes).free:
            return
        self._wait(self._quota(one))
        self._wait(told(*self.workers))
        found = self._wait(breaker(self.database, self.scopes.names[2]))
        assert found.state == "open"
        assert found.open_for_s > SETTINGS.open_s
        if self.forced is None:
            assert all(not each.standing(self.scopes).free for each in self.workers)
        self.seen.add("quota")
        self._wait(breakers.force(self.database, self.scopes.names[2], "closed", by="anna", reason="paid"))
        self._wait(breakers.force(self.database, self.scopes.names[2], None, by="anna", reason="paid"))
        self._wait(told(*self.workers))

    @rule(forced=st.sampled_from(["open", "closed", None]))
    def by_hand(self, forced: Any) -> None:
        self.forced = forced
        self._wait(breakers.force(self.database, self.scopes.names[0], forced, by="anna", reason="test"))
        self._wait(told(*self.workers))
        if forced == "closed":
            self.probed_at.clear()  # forgets what went before: an outage afterwards is another one
        self.seen.add(f"forced {forced}")

    @invariant()
    def all_workers_agree_on_what_a_person_said(self) -> None:
        if self.forced == "open":
            assert all(one.standing(self.scopes).state == "open" for one in self.workers)


def test_whatever_happens_one_probe_a_period_and_a_person_has_the_last_word(stack: RunningStack) -> None:
    loop = asyncio.new_event_loop()
    context = Database.open(stack.database_url, min_size=1, max_size=4)
    database = loop.run_until_complete(context.__aenter__())
    seen: set[str] = set()
    expected = {"probed", "closed by a probe", "prober died", "quota", "forced open", "forced closed", "forced None"}
    machine: Any = type("Machine", (BreakerMachine,), {"loop": loop, "database": database, "seen": seen})
    asyncio.set_event_loop(loop)
    try:
        for number in range(ROUNDS):
            run_state_machine_as_test(
                seed(number)(machine) if number else machine,
                settings=settings(max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)),
            )
            if seen >= expected:
                break
    finally:
        loop.run_until_complete(context.__aexit__(None, None, None))
        asyncio.set_event_loop(None)
        loop.close()
    assert seen >= expected, "the machine did not reach every outcome: the test shows less than it claims"
