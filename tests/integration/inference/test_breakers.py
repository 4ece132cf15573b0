"""Breakers over several workers on one database: when they open, who probes, who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from activities.inference.breaker_rules import Scopes
from activities.inference.breakers import Breakers
from devstack.postgres import EmbeddedPostgres, PostgresSettings
from state import breakers
from state.migrate import migrate
from state.notices import Notices
from state.pool import Database, DatabaseUnavailableError
from tests.integration.inference.breaker_world import SETTINGS, breaker, pass_time, told, worker
from workflows.contracts.errors import FailureClass

TRANSIENT, QUOTA, CALLER, THROTTLED = FailureClass.TRANSIENT, FailureClass.QUOTA, FailureClass.CALLER, FailureClass.THROTTLED


@pytest.fixture
def scopes(request: pytest.FixtureRequest) -> Scopes:
    """Of a provider that no other test has."""
    return Scopes(request.node.name[:80].replace("[", "-").replace("]", ""), "m-1", "main")


@pytest.fixture
def provider(scopes: Scopes) -> str:
    return scopes.names[0]


@pytest.fixture
def model(scopes: Scopes) -> str:
    return scopes.names[1]


async def open_provider(database: Database, scopes: Scopes) -> tuple[Breakers, Breakers]:
    """Two workers that have seen the provider go down together."""
    one, other = worker(database, "one"), worker(database, "other")
    for each in (one, other, one):
        each.failed(scopes.names, TRANSIENT, code="unreachable")
    await told(one, other)
    assert one.standing(scopes).state == other.standing(scopes).state == "open"
    return one, other


async def test_failures_in_a_row_are_counted_over_all_workers(database: Database, scopes: Scopes, provider: str) -> None:
    one, other = await open_provider(database, scopes)

    for each in (one, other):
        standing = each.standing(scopes)
        assert (standing.scope, standing.state, standing.failure_class) == (provider, "open", TRANSIENT)
        assert 0 < standing.wait_s <= SETTINGS.open_s
        assert "3 failures in a row: transient (unreachable)" in standing.reason


async def test_a_good_call_of_another_worker_ends_the_row(database: Database, scopes: Scopes) -> None:
    one, other = worker(database, "one"), worker(database, "other")
    for _ in range(3):
        one.failed(scopes.names, TRANSIENT, code="unreachable")
        one.failed(scopes.names, TRANSIENT, code="unreachable")
        await told(one, other)
        other.succeeded(scopes)
        await told(other, one)
    assert one.standing(scopes).free


async def test_a_large_share_of_failures_opens_though_there_are_good_calls_between(database: Database, scopes: Scopes, model: str) -> None:
    one = worker(database, "one")
    for _ in range(SETTINGS.minimum_calls // 2 + 1):
        assert one.standing(scopes).free
        one.failed(scopes.names, TRANSIENT, code="503")
        await told(one)
        one.succeeded(scopes)
        await told(one)
    one.failed(scopes.names, TRANSIENT, code="503")
    await told(one)

    assert one.standing(scopes).scope == model
    assert "calls failed within 30 s" in one.standing(scopes).reason


async def test_failures_that_lie_behind_the_window_do_not_count(database: Database, scopes: Scopes, model: str, provider: str) -> None:
    one = worker(database, "one")
    for _ in range(SETTINGS.minimum_calls * 2):
        one.failed(scopes.names, TRANSIENT, code="503")
        one.succeeded(scopes)
        await told(one)
        await pass_time(database, SETTINGS.window_s / 4, f"%{scopes.provider}%")
    found = await breaker(database, model)
    assert found is not None
    assert found.failures < SETTINGS.minimum_calls
    assert one.standing(scopes).free


async def test_good_calls_leave_no_trace_where_there_was_no_trouble(database: Database, scopes: Scopes) -> None:
    one = worker(database, "one")
    one.succeeded(scopes)
    await told(one)
    assert not [found for found in await breakers.read_all(database) if scopes.provider in found.scope]


async def test_an_overloaded_model_leaves_its_provider_open_for_others(database: Database, scopes: Scopes) -> None:
    one = worker(database, "one")
    for _ in range(20):
        one.failed(scopes.names, TRANSIENT, code="overloaded_error")
    await told(one)
    assert one.standing(scopes).state == "open"
    assert one.standing(Scopes(scopes.provider, "m-2", "main")).free


@pytest.mark.parametrize(
    ("failure_class", "code"), [(QUOTA, "insufficient_quota"), (CALLER, "invalid_api_key"), (CALLER, "authentication_error")]
)
async def test_a_refused_key_is_set_aside_at_once_by_all_workers(
    database: Database, scopes: Scopes, failure_class: FailureClass, code: str
) -> None:
    one, other = worker(database, "one"), worker(database, "other")
    one.failed(scopes.names, failure_class, code=code)

    assert one.standing(scopes).state == "open", "before anything is written"
    await told(one, other)
    for each in (one, other):
        standing = each.standing(scopes)
        assert (standing.scope, standing.failure_class) == (scopes.names[2], failure_class)
        assert SETTINGS.open_s < standing.wait_s <= SETTINGS.quota_open_s
        assert each.standing(Scopes(scopes.provider, "m-1", "spare")).free


async def test_a_key_that_may_not_use_one_model_goes_on_with_the_others(database: Database, scopes: Scopes) -> None:
    one = worker(database, "one")
    one.failed(scopes.names, CALLER, code="permission_error")
    await told(one)
    assert one.standing(scopes).scope == scopes.names[3]
    assert one.standing(Scopes(scopes.provider, "m-2", "main")).free


async def test_a_throttled_call_is_no_failure_but_all_workers_wait(database: Database, scopes: Scopes) -> None:
    one, other = worker(database, "one"), worker(database, "other")
    for _ in range(20):
        one.failed(scopes.names, THROTTLED, code="429", retry_after_s=7)
    await told(one, other)

    for each in (one, other):
        assert each.standing(scopes).state == "cooling"
        assert 0 < each.standing(scopes).wait_s <= 7
    await pass_time(database, 7, f"%{scopes.provider}%")
    await told(one, other)
    assert other.standing(scopes).free


async def test_one_probe_among_all_and_its_success_closes(database: Database, scopes: Scopes, provider: str) -> None:
    one, other = await open_provider(database, scopes)
    await pass_time(database, SETTINGS.open_s, f"%{scopes.provider}%")
    await told(one, other)
    assert one.standing(scopes).due == other.standing(scopes).due == (provider,)

    won = await asyncio.gather(*(each.claim_probe(*scopes) for each in (one, other, one, other)))
    assert sorted(won) == [False, False, False, True]
    prober, waiting = (one, other) if won[0] or won[2] else (other, one)
    await told(waiting)
    assert prober.standing(scopes).state == waiting.standing(scopes).state == "open", "while the probe is in the air"

    prober.succeeded(scopes)
    await told(prober, waiting)
    assert prober.standing(scopes).free
    assert waiting.standing(scopes).free


async def test_a_failed_probe_opens_for_another_period(database: Database, scopes: Scopes, provider: str) -> None:
    one, other = await open_provider(database, scopes)
    await pass_time(database, SETTINGS.open_s, f"%{scopes.provider}%")
    await told(one, other)
    assert await one.claim_probe(*scopes)
    one.failed(scopes.names, TRANSIENT, code="unreachable")
    await told(one, other)

    assert other.standing(scopes).state == "open"
    assert not await other.claim_probe(*scopes)
    found = await breaker(database, provider)
    assert found is not None
    assert (found.probes, found.openings) == (1, 1)


async def test_a_probe_that_was_never_sent_is_due_again_at_once(database: Database, scopes: Scopes) -> None:
    one, other = await open_provider(database, scopes)
    await pass_time(database, SETTINGS.open_s, f"%{scopes.provider}%")
    await told(one, other)
    assert await one.claim_probe(*scopes)
    one.gave_up(scopes, sent=False)
    await told(one, other)
    assert await other.claim_probe(*scopes)


async def test_a_dead_probers_claim_ends_after_a_period(database: Database, scopes: Scopes, provider: str) -> None:
    one, other = await open_provider(database, scopes)
    await pass_time(database, SETTINGS.open_s, f"%{scopes.provider}%")
    await told(one, other)
    assert await one.claim_probe(*scopes)
    await pass_time(database, SETTINGS.open_s - 1, f"%{scopes.provider}%")
    await told(other)
    assert not await other.claim_probe(*scopes)
    await pass_time(database, 1, f"%{scopes.provider}%")
    await told(other)
    assert other.standing(scopes).due == (provider,)
    assert await other.claim_probe(*scopes)


async def test_late_ends_of_earlier_calls_do_not_decide_for_the_probe(database: Database, scopes: Scopes, provider: str) -> None:
    one, other = await open_provider(database, scopes)
    other.succeeded(scopes)
    await pass_time(database, SETTINGS.open_s, f"%{scopes.provider}%")
    await told(one, other)
    assert await one.claim_probe(*scopes)
    other.succeeded(scopes)
    other.failed(scopes.names, TRANSIENT, code="unreachable")
    await told(other)
    found = await breaker(database, provider)
    assert found is not None
    assert found.state == "half_open"


async def test_by_hand_goes_before_the_counts(database: Database, scopes: Scopes, provider: str) -> None:
    one, other = await open_provider(database, scopes)
    await breakers.force(database, provider, "closed", by="anna", reason="it is back")
    await told(one, other)
    assert other.standing(scopes).free
    for _ in range(5):
        other.failed(scopes.names, TRANSIENT, code="unreachable")
    await told(other, one)
    assert one.standing(scopes).free, "held closed"

    await breakers.force(database, provider, "open", by="bob", reason="they work on it")
    await told(one, other)
    standing = one.standing(scopes)
    assert (standing.state, standing.reason, standing.failure_class) == ("open", "held open by bob: they work on it", None)
    assert not await one.claim_probe(*scopes)

    await breakers.force(database, provider, None, by="bob", reason="done")
    await pass_time(database, SETTINGS.open_s, f"%{scopes.provider}%")
    await told(one, other)
    assert one.standing(scopes).state == "probe_due", "the failures that came while it was held closed count again"


async def test_a_refused_key_and_an_opened_breaker_are_told_by_the_worker_that_saw_them(database: Database, scopes: Scopes) -> None:
    alerts: list[tuple[str, dict[str, Any]]] = []
    one = Breakers(database, SETTINGS, worker="one", alert=lambda kind, fields: alerts.append((kind, fields)))
    await one.refresh()
    one.failed(scopes.names, QUOTA, code="insufficient_quota")
    await told(one)
    await told(one)
    assert [(kind, fields["scope"]) for kind, fields in alerts] == [("key_refused", scopes.names[2]), ("breaker_opened", scopes.names[2])]
    assert alerts[0][1] | {"scope": ""} == {
        "scope": "",
        "key": f"{scopes.provider}/{scopes.key}",
        "reason": "quota (insufficient_quota)",
    }


async def until(condition: Callable[[], bool], of: str) -> None:
    """Wait for what must come by itself."""
    try:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"it never came: {of}")


async def test_workers_hear_of_a_change_without_being_asked(database: Database, scopes: Scopes, provider: str) -> None:
    notices = Notices(database)
    alone = Breakers(database, SETTINGS, worker="one")
    hearing = Breakers(database, SETTINGS, notices=notices, worker="other")
    async with notices.open(), alone as one, hearing as other:
        for _ in range(3):
            one.failed(scopes.names, TRANSIENT, code="unreachable")
        await until(lambda: not one.standing(scopes).free, "its own failures")
        await until(lambda: not other.standing(scopes).free, "what the first worker saw")
        await breakers.force(database, provider, "closed", by="anna", reason="it is back")
        await until(lambda: other.standing(scopes).free and one.standing(scopes).free, "what a person said")


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, EmbeddedPostgres.kill], ids=["stopped", "killed"])
async def test_with_the_database_away_breakers_hold_and_counts_are_kept(
    scopes: Scopes, end: Callable[[EmbeddedPostgres], Awaitable[None]]
) -> None:
    server = EmbeddedPostgres(PostgresSettings())
    async with server.running():
        await migrate(server.dsn)
        async with Database.open(server.dsn) as database, Breakers(database, SETTINGS, worker="one") as one:
            one.failed(scopes.names, QUOTA, code="insufficient_quota")
            await until(lambda: not one.standing(scopes).free, "the quota")
            await one.flush()
            await end(server)
            with pytest.raises(DatabaseUnavailableError):
                await one.refresh()
            for _ in range(3):
                one.failed(scopes.names, TRANSIENT, code="unreachable")
            assert one.standing(scopes).state == "open"
            assert not await one.claim_probe(*scopes)

            await server.start()
            spare = Scopes(scopes.provider, scopes.model, "spare")
            await until(lambda: not one.standing(spare).free, "failures that were counted while the database was away")
            assert one.standing(spare).scope == scopes.names[0]
