"""A worker whose clock jumps by days: what workers share is decided by the database's time, so nothing moves."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from devstack.stack import RunningStack
from state.migrate import migrate
from state.pool import Database
from tests.integration.inference.breaker_world import SETTINGS, pass_time
from tests.integration.state.conftest import new_database
from tests.integration.state.ledger import new_run

DAYS_S = 2 * 86_400.0
PROGRAM = ("-m", "tests.integration.inference.jumping_clock")
WITHIN_S = 30.0


@dataclass
class Remote:
    """A worker in a process of its own."""

    process: Process

    async def __call__(self, what: str, *given: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, *given]).encode() + b"\n")
        async with asyncio.timeout(WITHIN_S):
            line = await self.process.stdout.readline()
        assert line, "the worker has ended"
        return json.loads(line)


@contextlib.asynccontextmanager
async def remote(url: str, name: str) -> AsyncIterator[Remote]:
    process = await asyncio.create_subprocess_exec(sys.executable, *PROGRAM, url, name, stdin=PIPE, stdout=PIPE)
    try:
        yield Remote(process)
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(WITHIN_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@dataclass
class Pair:
    """A worker with the true time, and one whose clock has jumped."""

    true: Remote
    jumped: Remote
    database: Database


@pytest.fixture(scope="module", params=[DAYS_S, -DAYS_S], ids=["into the future", "into the past"])
async def pair(stack: RunningStack, request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with new_database(stack) as url:
        await migrate(url)
        async with Database.open(url) as database, remote(url, "true") as true, remote(url, "jumped") as jumped:
            await jumped("limit", "before:1")  # it knows the time as it was
            await jumped("jump", request.param)
            now = await jumped("clock")
            assert now["time"] - time.time() == pytest.approx(request.param, abs=60)
            assert now["date"] - time.time() == pytest.approx(request.param, abs=60)
            yield Pair(true, jumped, database)


async def test_slots_of_one_limit_follow_each_other_whoever_asks(pair: Pair) -> None:
    given = [await (pair.true, pair.jumped)[n % 2]("limit", f"r{n}:1") for n in range(14)]
    now_s = await pair.database.fetchval("select extract(epoch from clock_timestamp())::float8")
    slots = [each["slot_at"] for each in given]
    assert all(abs(slot - now_s) < 30 for slot in slots), "by the database's clock"
    assert slots == sorted(slots)
    later = [slot for each, slot in zip(given, slots, strict=True) if each["delay_s"] > 0]
    assert len(later) >= 5, "the burst is used up"
    assert all(after - before == pytest.approx(60 / 54, abs=0.2) for before, after in itertools.pairwise(later))


async def test_one_days_budget_is_the_same_day_for_both(pair: Pair) -> None:
    run_ids = [await new_run(pair.database) for _ in range(4)]
    begun = [await (pair.true, pair.jumped)[n % 2]("begin", run_id) for n, run_id in enumerate(run_ids)]
    assert [each["outcome"] for each in begun] == ["go", "go", "over_budget", "over_budget"]
    assert begun[2]["turns_in_s"] == pytest.approx(begun[3]["turns_in_s"], abs=WITHIN_S)
    (starts,) = await pair.database.fetch("select starts_at = date_trunc('day', clock_timestamp(), 'UTC') as today from budget_periods")
    assert starts["today"]


async def test_a_breaker_is_open_for_as_long_for_both_and_one_of_them_probes(pair: Pair) -> None:
    await pair.jumped("fail")
    for each in (pair.true, pair.jumped):
        stands = await each("standing")
        assert stands["state"] == "open"
        assert 0 < stands["wait_s"] <= SETTINGS.open_s
    await pass_time(pair.database, SETTINGS.open_s)
    assert [(await each("standing"))["state"] for each in (pair.true, pair.jumped)] == ["probe_due", "probe_due"]
    claimed = await asyncio.gather(pair.true("probe"), pair.jumped("probe"))
    assert sum(each["claimed"] for each in claimed) == 1


async def test_an_answer_is_as_old_for_both_and_one_of_them_leads(pair: Pair) -> None:
    for one, other, question in ((pair.true, pair.jumped, "When?"), (pair.jumped, pair.true, "Where?")):
        assert (await one("look", question))["found"] == "Lead"
        assert (await other("look", question))["found"] == "Busy"
        assert (await one("keep"))["kept"]
        for each in (one, other):
            found = await each("look", question)
            assert found["found"] == "Hit"
            assert 0 <= found["age_s"] < WITHIN_S


async def test_an_alert_is_given_once_and_both_are_known_to_live(pair: Pair) -> None:
    given = [(await each("alert"))["period"] for each in (pair.jumped, pair.true)]
    hour = await pair.database.fetchval("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD')")
    assert given[1] is None
    assert given[0].startswith(f"{hour}T")
    await pair.jumped("keys")
    assert (await pair.true("keys"))["live"] == ["jumped", "true"]
