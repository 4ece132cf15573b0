"""Keys over a simulated provider: several are spread and take each other's place, secrets rotate while calls go on."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from activities.inference.alerts import Alerts
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.server import SimulatedProvider, simulated_provider
from state import worker_keys
from state.pool import Database
from tests.integration.inference.breaker_world import breaker
from tests.integration.inference.key_world import MAIN, NEW, SPARE, by_command, by_file, key_world, runs_of
from tests.integration.inference.test_breakers import until
from workflows.contracts.errors import FailureClass, SettingsError, StepError
from workflows.contracts.inference import AlertSettings
from workflows.contracts.provider_settings import KeyEntry, Rates

ENVIRON = {"MAIN_KEY": MAIN, "SPARE_KEY": SPARE, "PATH": "/usr/bin:/bin"}
BOTH = (KeyEntry(name="main", env="MAIN_KEY", weight=1000), KeyEntry(name="spare", env="SPARE_KEY", weight=0.001))


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedProvider]:
    async with simulated_provider(keys=frozenset({MAIN, SPARE, NEW})) as provider:
        yield provider


async def test_calls_are_spread_over_keys_by_their_weights(database: Database, sim: SimulatedProvider) -> None:
    keys = (KeyEntry(name="main", env="MAIN_KEY", weight=3), KeyEntry(name="spare", env="SPARE_KEY", weight=1))
    async with key_world(database, sim, ENVIRON, keys) as world:
        taken = Counter([await world.call() for _ in range(60)])
        assert taken["main"] > taken["spare"] > 0


async def test_a_refused_key_gives_way_to_the_next_within_the_same_attempt(database: Database, sim: SimulatedProvider) -> None:
    sim.keys = frozenset({SPARE})
    async with key_world(database, sim, ENVIRON, BOTH) as world:
        assert await world.call() == "spare"
        assert world.asked == [("main", 401), ("sprx", 200)]
        assert await world.call() == "spare"
        assert len(world.asked) == 3, "the refused key was set aside"
    found = await breaker(database, world.key_scope("main"))
    assert found is not None
    assert (found.state, found.failure_class) == ("open", "caller")


async def test_people_are_told_of_a_refused_key_by_its_name_and_once_in_an_hour(database: Database, sim: SimulatedProvider) -> None:
    sim.keys = frozenset({SPARE})
    async with Alerts(database, AlertSettings).open() as one, Alerts(database, AlertSettings).open() as two:

        def alert(kind: str, fields: dict[str, Any]) -> None:
            for alerts in (one, two):  # as two workers would that see it
                alerts.raise_(kind, str(fields["scope"]), **fields)

        with structlog.testing.capture_logs() as logs:
            async with key_world(database, sim, ENVIRON, BOTH, alert=alert) as world:
                assert await world.call() == "spare"
                scope = world.key_scope("main")
                one.raise_("last", scope)
                await until(lambda: "alert.last" in [entry["event"] for entry in logs], "what was raised before has been given")
    (told,) = [entry for entry in logs if entry["event"] == "alert.key_refused"]
    assert (told["scope"], told["key"], told["reason"]) == (scope, f"{world.provider}/main", "caller (invalid_api_key)")
    assert not any(secret in repr(logs) for secret in (MAIN, SPARE))
    hour = await database.fetchval("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD')")
    assert told["period"].startswith(f"{hour}T"), "the hour is the database's"


async def test_a_used_up_quota_sets_one_key_aside_for_all_and_the_others_go_on(database: Database, sim: SimulatedProvider) -> None:
    sim.add_fault(Fault(kind=FaultKind.QUOTA, key="main"))
    async with key_world(database, sim, ENVIRON, BOTH) as world:
        assert [await world.call() for _ in range(3)] == ["spare"] * 3
        assert sim.fired("quota") == 1
        assert world.breakers.standing([world.key_scope("main")]).failure_class is FailureClass.QUOTA
        assert world.breakers.standing([f"provider:{world.provider}", f"model:{world.provider}:m"]).free


async def test_of_two_keys_the_one_with_room_is_taken(database: Database, sim: SimulatedProvider) -> None:
    sim.latency["*"] = Latency(first_token_s=0.5)
    keys = (BOTH[0].model_copy(update={"limits": Rates(concurrency=1)}), BOTH[1])
    async with key_world(database, sim, ENVIRON, keys) as world:
        taken = await asyncio.gather(*(world.call() for _ in range(4)))
        assert sorted(taken) == ["main", "spare", "spare", "spare"]


async def test_a_file_is_read_again_and_the_new_secret_used_without_a_restart(
    database: Database, sim: SimulatedProvider, tmp_path: Path
) -> None:
    async with key_world(database, sim, {}, [by_file(tmp_path, "main", MAIN)]) as world:
        await world.call()
        by_file(tmp_path, "main", NEW)
        await world.inference.keyring.check()
        await world.call()
        assert world.asked == [("main", 200), ("newx", 200)]


async def test_a_key_that_was_rotated_a_moment_ago_costs_a_refusal_and_no_run(
    database: Database, sim: SimulatedProvider, tmp_path: Path
) -> None:
    async with key_world(database, sim, {}, [by_file(tmp_path, "main", MAIN)]) as world:
        by_file(tmp_path, "main", NEW)
        sim.keys = frozenset({NEW})
        assert await asyncio.gather(*(world.call() for _ in range(5))) == ["main"] * 5
        assert ("main", 401) in world.asked
        assert Counter(world.asked)[("newx", 200)] == 5
        assert world.breakers.standing([world.key_scope("main")]).free, "it was not the key's fault"


async def test_a_command_is_run_again_every_few_minutes_and_when_its_key_is_refused(
    database: Database, sim: SimulatedProvider, tmp_path: Path
) -> None:
    async with key_world(database, sim, ENVIRON, [by_command(tmp_path, "main", MAIN)]) as world:
        await world.call()
        await world.inference.keyring.check()
        assert runs_of(tmp_path, "main") == 1
        world.now_s[0] += 301
        await world.inference.keyring.check()
        assert runs_of(tmp_path, "main") == 2
        by_command(tmp_path, "main", NEW)
        sim.keys = frozenset({NEW})
        await world.call()
        assert runs_of(tmp_path, "main") == 3
        assert world.asked == [("main", 200), ("main", 401), ("newx", 200)]


async def test_a_key_that_stays_refused_is_asked_for_once_and_its_run_is_told(
    database: Database, sim: SimulatedProvider, tmp_path: Path
) -> None:
    sim.keys = frozenset({NEW})
    async with key_world(database, sim, ENVIRON, [by_command(tmp_path, "main", MAIN)]) as world:
        for _ in range(3):
            with pytest.raises(StepError) as raised:
                await world.call()
            assert raised.value.failure_class is FailureClass.CALLER
        assert world.asked == [("main", 401)]


async def test_a_new_secret_has_its_closed_key_tried_again_at_once(database: Database, sim: SimulatedProvider, tmp_path: Path) -> None:
    sim.keys = frozenset({NEW})
    async with key_world(database, sim, {}, [by_file(tmp_path, "main", MAIN)]) as world:
        with pytest.raises(StepError):
            await world.call()
        await until(lambda: world.breakers.standing([world.key_scope("main")]).wait_s > 500, "the key is set aside")
        by_file(tmp_path, "main", NEW)
        await world.inference.keyring.check()
        await until(lambda: world.breakers.standing([world.key_scope("main")]).state == "probe_due", "its probe is due")
        await world.call()
        await until(lambda: world.breakers.standing([world.key_scope("main")]).free, "the good probe closes the breaker")


async def test_a_lost_or_broken_file_leaves_the_key_that_was_read(database: Database, sim: SimulatedProvider, tmp_path: Path) -> None:
    async with key_world(database, sim, {}, [by_file(tmp_path, "main", MAIN)]) as world:
        with structlog.testing.capture_logs() as logs:
            by_file(tmp_path, "main", "two words")
            await world.inference.keyring.check()
            (tmp_path / "main").unlink()
            for _ in range(2):
                await world.inference.keyring.check()
        assert await world.call() == "main"
        told = [line["problem"] for line in logs if line["event"] == "key.stays_old"]
        assert len(told) == 2, "each is said once"
        assert "characters that no header can carry" in told[0]
        assert "cannot be read" in told[1]
        assert "two words" not in str(logs)
        assert world.inference.keyring.states()[0].problem == told[1]


async def test_a_replaced_connection_stays_open_for_the_call_that_uses_it(
    database: Database, sim: SimulatedProvider, tmp_path: Path
) -> None:
    async with key_world(database, sim, {}, [by_file(tmp_path, "main", MAIN)]) as world:
        keyring = world.inference.keyring
        (old,) = keyring.view(world.settings(by_file(tmp_path, "main", MAIN))).keys(world.provider)
        with old.in_use():
            by_file(tmp_path, "main", NEW)
            await keyring.check()
            world.now_s[0] += 3600
            await keyring.check()
            assert keyring.replaced == 1
        await keyring.check()
        assert keyring.replaced == 0


async def test_missing_keys_are_left_out_said_once_and_the_others_used(database: Database, sim: SimulatedProvider, tmp_path: Path) -> None:
    keys = (KeyEntry(name="gone", env="NO_SUCH_KEY"), KeyEntry(name="broken", command=("false",)), by_file(tmp_path, "main", MAIN))
    with structlog.testing.capture_logs() as logs:
        async with key_world(database, sim, ENVIRON, keys) as world:
            for _ in range(2):
                await world.inference.keyring.check()
            assert await world.call() == "main"
            problems = {state.key: state.problem for state in world.inference.keyring.states()}
    assert problems == {"gone": "NO_SUCH_KEY is not set", "broken": "command false ended with 1", "main": None}
    told = [line["key"] for line in logs if line["event"] == "provider.without_key" and line["provider"] == world.provider]
    assert sorted(told) == ["broken", "gone"]


async def test_a_key_that_no_header_can_carry_refuses_the_settings_and_the_old_ones_stay(
    database: Database, sim: SimulatedProvider
) -> None:
    async with key_world(database, sim, ENVIRON | {"BAD_KEY": "two words"}, BOTH) as world:
        with pytest.raises(SettingsError, match="BAD_KEY") as raised:
            world.take(*BOTH, KeyEntry(name="bad", env="BAD_KEY"))
        assert "two words" not in str(raised.value)
        assert await world.call() == "main"


async def test_a_changed_weight_or_limit_keeps_the_connection(database: Database, sim: SimulatedProvider) -> None:
    async with key_world(database, sim, ENVIRON, BOTH) as world:
        before = [key.connection for key in world.inference.keyring.view(world.settings(*BOTH)).keys(world.provider)]
        heavier = [each.model_copy(update={"weight": 5.0, "limits": Rates(concurrency=9)}) for each in BOTH]
        after = world.inference.keyring.view(world.settings(*heavier)).keys(world.provider)
        assert [key.connection for key in after] == before
        assert [(key.weight, key.limits.concurrency) for key in after] == [(5.0, 9)] * 2


async def test_no_secret_is_written_down(database: Database, sim: SimulatedProvider, tmp_path: Path) -> None:
    sim.keys = frozenset({SPARE})
    keys = (by_file(tmp_path, "main", MAIN, weight=1000), by_command(tmp_path, "spare", SPARE))
    with structlog.testing.capture_logs() as logs:
        async with key_world(database, sim, ENVIRON, keys) as world:
            worker = f"w-{uuid.uuid4().hex[:6]}"
            await world.call()
            rows = [worker_keys.KeyRow(each.provider, each.key, each.source, each.problem) for each in world.inference.keyring.states()]
            await worker_keys.tell(database, worker, rows)
            told = {(each.key, each.source, each.problem) for each in await worker_keys.live(database) if each.worker == worker}
            assert told == {("main", f"file {tmp_path}/main", None), ("spare", "command sh", None)}
            await worker_keys.tell(database, worker, rows[:1])
            assert [each.key for each in await worker_keys.live(database) if each.worker == worker] == ["main"]
            tables = await database.fetch("select tablename from pg_tables where schemaname = 'public'")
            content = [str(await database.fetch(f'select t::text from "{table["tablename"]}" t')) for table in tables]  # noqa: S608
            await worker_keys.leave(database, worker)
            shown = repr(world.inference.keyring.view(world.settings(*keys)).keys(world.provider))
    assert world.provider in "".join(content), "the tables were not read"
    for place in (*content, str(logs), shown):
        assert MAIN not in place
        assert SPARE not in place
