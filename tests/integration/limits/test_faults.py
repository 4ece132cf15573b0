"""Limits while workers are killed, the database goes away, and a provider refuses."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal

import pytest

from activities.inference.admission import Admission, Admitted, Option
from activities.inference.gateway import FixedKeys, OneKey
from activities.inference.limiter import Ask, Lease, Limiter, Postponed, Slot
from activities.inference.pricing import Worst
from activities.inference.providers.scripted import ScriptedModel
from activities.inference.routing import Candidate
from devstack.postgres import EmbeddedPostgres, PostgresSettings
from state import limits
from state.migrate import migrate
from state.pool import Database, DatabaseUnavailableError
from tests.integration.limits.asking import ask, calls, requests, tokens
from tests.integration.limits.clock import Clock
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import InferenceSettings, LimiterSettings, Priority
from workflows.contracts.messages import LimitKind, ToldLimit, Usage


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A server of this test's own, to be taken down."""
    postgres = EmbeddedPostgres(PostgresSettings())
    async with postgres.running():
        await migrate(postgres.dsn)
        yield postgres


async def patiently(limiter: Limiter, wanted: Ask) -> Lease:
    """Ask until the slot is there, as workers do."""
    while True:
        given = await limiter.acquire(wanted)
        if isinstance(given, Slot) and given.lease.held:
            return given.lease
        await asyncio.sleep(given.wait_s if isinstance(given, Postponed) else given.delay_s - 1.0)


async def seen_as_down(database: Database) -> None:
    with pytest.raises(DatabaseUnavailableError):
        await database.fetchval("select 1")


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, EmbeddedPostgres.kill], ids=["stopped", "killed"])
async def test_a_database_that_restarts_in_mid_wait_loses_no_caller_and_passes_no_limit(
    server: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], Awaitable[None]]
) -> None:
    bucket = requests(30, headroom=0.2, period_s=2.0)
    async with (
        Database.open(server.dsn) as database,
        Limiter(database, worker="a").open() as one,
        Limiter(database, worker="b").open() as two,
    ):
        before = [asyncio.create_task(patiently((one, two)[n % 2], ask(f"r:{n}", (bucket, 1)))) for n in range(8)]
        leases = list(await asyncio.gather(*before))
        await end(server)
        await seen_as_down(database)
        during = [asyncio.create_task(patiently((one, two)[n % 2], ask(f"r:{n}", (bucket, 1)))) for n in range(8, 40)]
        await seen_as_down(database)
        assert not any(task.done() for task in during)
        await server.start()
        leases += await asyncio.gather(*during)
        crashed = await database.fetchval("select since > 0 from limit_life")
    assert crashed == (end is EmbeddedPostgres.kill), "a crash is told from an end in order"
    slots = sorted(lease.slot_at for lease in leases)
    assert len(slots) == 40
    assert max(sum(start <= slot < start + 2.0 for slot in slots) for start in slots) <= 30


async def test_a_worker_goes_on_by_its_share_while_the_database_is_away(server: EmbeddedPostgres) -> None:
    alone = LimiterSettings(when_database_is_away="local", local_share=0.1)
    rate, air = requests(6000, headroom=0.0), calls(20)
    async with Database.open(server.dsn) as database, Limiter(database, alone, worker="a").open() as limiter:
        await server.stop()
        await seen_as_down(database)
        given = [await limiter.acquire(ask(f"r:{n}", (rate, 1), (air, 1))) for n in range(3)]
        slots = [each for each in given if isinstance(each, Slot)]
        assert len(slots) == 2, "two of twenty calls in the air are its share"
        assert all(slot.lease.local for slot in slots)
        limiter.settle(slots[0].lease, Usage())
        assert isinstance(await limiter.acquire(ask("r:3", (rate, 1), (air, 1))), Slot)

        slow = requests(60, "provider:slow requests/min", headroom=0.0)
        for n in range(2):
            await limiter.acquire(ask(f"s:{n}", (slow, 1), (calls(20, "provider:slow concurrency"), 1)))
        far = [await limiter.acquire(ask(f"s:{n}", (slow, 1), (calls(20, "provider:slow concurrency"), 1))) for n in range(2, 5)]
        assert all(isinstance(each, Postponed) for each in far), "10 s apart: no slot is kept, and no call in the air"
        assert limiter._held["provider:slow concurrency"] <= 1, "a hold only where a slot was given"
        await server.start()


async def test_a_killed_workers_calls_in_the_air_end(limits_url: str, limits_database: Database, limits_clock: Clock) -> None:
    async with Limiter(limits_database, worker="b").open() as limiter:
        victim = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.limits.holder", limits_url, stdout=asyncio.subprocess.PIPE
        )
        assert victim.stdout is not None
        assert await asyncio.wait_for(victim.stdout.readline(), 30) == b"held\n"
        assert isinstance(await limiter.acquire(ask("r:1", (calls(1), 1))), Postponed)
        victim.kill()
        assert await victim.wait() < 0
        assert isinstance(await limiter.acquire(ask("r:1", (calls(1), 1))), Postponed), "nobody knows yet"
        await limits_clock.go_on(10.5)
        assert isinstance(await limiter.acquire(ask("r:1", (calls(1), 1))), Slot)


async def test_a_refusal_holds_the_limits_it_can_mean_for_all_workers(limits_database: Database, limits_clock: Clock) -> None:
    account, model, other = requests(600), requests(600, "model:p:m requests/min"), requests(600, "tenant:t requests/min")
    async with Limiter(limits_database, worker="a").open() as one, Limiter(limits_database, worker="b").open() as two:
        admission = Admission(InferenceSettings(), FixedKeys({}), None, one)
        given = await one.acquire(ask("r:1", (account, 1), (model, 1), (other, 1)))
        assert isinstance(given, Slot)
        refused = StepError("Too many.", failure_class=FailureClass.THROTTLED, retry_after_s=7.0, code="429")
        candidate = Candidate("p", "m", "p", None, Worst(Decimal(0), Decimal(0), 1000), "named")
        await admission.failed(Admitted(Option(candidate, OneKey(ScriptedModel([]))), given.lease), refused)
        await one.acquire(ask("r:2", (other, 1)))
        held = await two.acquire(ask("r:3", (account, 1), (model, 1), priority=Priority.URGENT))
        assert isinstance(held, Slot)
        assert held.delay_s >= 7.0
        free = await two.acquire(ask("r:4", (account, 1), (other, 1)))
        assert isinstance(free, Slot)
        assert free.delay_s == 0, "a full model stops neither its account nor tenants"


async def test_a_claimed_slot_is_settled_by_what_it_was_charged(limits_database: Database, limits_clock: Clock) -> None:
    bucket = tokens(6000, headroom=0.1)
    async with Limiter(limits_database, worker="a").open() as limiter:
        await limiter.acquire(ask("r:1", (bucket, 600)))
        far = await limiter.acquire(ask("r:2", (bucket, 500)))
        assert isinstance(far, Slot)
        assert not far.lease.held
        await limits_clock.move_to(far.lease.slot_at - 0.5)
        claimed = await limiter.acquire(ask("r:2", (bucket, 50)))
        assert isinstance(claimed, Slot)
        assert [demand.amount for demand in claimed.lease.alternative.demands] == [500]
        booked = (await limits.standing(limits_database))[0].booked_s
        limiter.settle(claimed.lease, Usage(input_tokens=320))
        await limiter.acquire(ask("r:3", (bucket, 1)))
        assert (await limits.standing(limits_database))[0].booked_s - booked == pytest.approx(-179 / 90, abs=0.05)


async def test_a_providers_word_is_forgotten_in_time_and_when_the_limit_changes(limits_database: Database, limits_clock: Clock) -> None:
    bucket, raised = requests(600), requests(900)
    async with Limiter(limits_database, worker="a").open() as limiter:

        async def in_force(bucket: object = bucket, *, told: bool) -> float:
            given = await limiter.acquire(ask(f"r:{limits_clock.now_s}", (bucket, 1)))  # type: ignore[arg-type]
            assert isinstance(given, Slot)
            if told:
                limiter.told(given.lease, [ToldLimit(kind=LimitKind.REQUESTS, limit=60, remaining=50)])
            limiter.give_back(given.lease)
            await limiter.acquire(ask(f"s:{limits_clock.now_s}", (bucket, 1)))  # type: ignore[arg-type]
            return (await limits.standing(limits_database))[0].in_force

        assert await in_force(told=True) == pytest.approx(54)
        await limits_clock.go_on(601)
        assert (await limits.standing(limits_database))[0].in_force == pytest.approx(540), "as people are told it"
        assert await in_force(told=False) == pytest.approx(540)
        await limits_clock.go_on(60)
        assert await in_force(told=True) == pytest.approx(54)
        await limits_clock.go_on(60)
        assert await in_force(raised, told=False) == pytest.approx(810)


async def test_what_is_free_now_is_what_a_call_is_given_now(limits_database: Database, limits_clock: Clock) -> None:
    account, model = tokens(6000, headroom=0.2), requests(60, "model:p:m requests/min", headroom=0.0)
    async with Limiter(limits_database, worker="a").open() as limiter:
        for n in range(4):
            await limiter.acquire(ask(f"r:{n}", (account, 150), (model, 1)))
        await limits_clock.go_on(0.6)
        free = next(each.free_now for each in await limits.standing(limits_database) if each.name == account.name)
        assert free > 0
        fits = await limiter.acquire(ask("m:1", (account, free - 1)))
        assert isinstance(fits, Slot)
        assert fits.delay_s == 0
        more = await limiter.acquire(ask("m:2", (account, 5)))
        assert isinstance(more, Postponed) or more.delay_s > 0
