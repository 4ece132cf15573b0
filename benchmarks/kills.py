"""Workers killed at every boundary while random agents work: what was lost, done twice, paid twice, or not reported.

`SEED=n PROGRAMS=1 make bench NAME=kills` repeats one program under the kills of its seed; with `MINUTES=n` no program is begun after so
many minutes, and the figures say how many were.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from benchmarks.people import People
from benchmarks.premises import Premises, open_premises
from benchmarks.programs import program
from benchmarks.results import Measured, table
from client.orchestrator import Orchestrator
from client.temporal import connect_temporal
from client.visibility import ENDED
from devstack.process import ServerProcess
from devstack.stack import StackSettings, open_stack
from testkit import faults
from testkit.faults import Fault
from testkit.processes import worker_process
from workflows.contracts import names
from workflows.contracts.runs import RunStatus

PROGRAMS = 500
AT_A_TIME = 24
SLOTS = 2
"""Worker processes; while one is dead the other works."""
LIVES_AT_MOST_S = 15.0
"""A worker whose switch is not reached by then is killed where it stands."""
SETTLE_S = 10.0
"""In which a dead worker's leases run out and its late statements have been carried out."""
GIVE_UP_S = 7_200.0
AGENTS = Path(__file__).with_name("kill_agents")
SCHEMA = """
create table if not exists done (tool text, idempotency_key text, run_id text, undone boolean, at timestamptz default now());
create table if not exists stumbles (idempotency_key text);
"""
ACTIVITIES = (
    names.CALL_MODEL,
    names.RUN_TOOL,
    names.ASK_PERSON,
    names.CHECK_EDIT,
    names.KEEP_RECORD,
    names.CLOSE_RUN,
    names.FIND_UNDOABLE,
    names.UNDO_EFFECT,
)
SIGNALS = (names.APPROVE, names.REJECT, names.EDIT, names.ANSWER, names.REDRIVE, "aprove")
POINTS = tuple(
    [f"activity:{name}:{moment}" for name in ACTIVITIES for moment in ("before", "during", "after")]
    + [f"signal:{name}:{moment}" for name in SIGNALS for moment in ("before", "after")]
)
"""The points that must have fired; those of the ledger's writes are found as they are passed."""


@dataclass
class Account:
    """What all of it came to."""

    programs: int
    kills: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    done_twice: list[str] = field(default_factory=list)
    unreported: list[str] = field(default_factory=list)
    paid_twice: int = 0
    paid_twice_explained: int = 0
    unknown_outcomes: int = 0
    orders: int = 0
    orders_missing: int = 0


@dataclass
class House:
    """Everything but the workers."""

    premises: Premises
    holdfast: Orchestrator
    database: asyncpg.Pool
    people: People


async def measure() -> Measured:
    """All programs, under kills."""
    account, seconds = await play(int(os.environ.get("PROGRAMS", PROGRAMS)), int(os.environ.get("SEED", "1")))
    never = [point for point in POINTS if not account.fired[point]]
    figures: dict[str, float | int | str] = {
        "programs": account.programs,
        "kills": account.kills,
        "lost": len(account.lost),
        "effects_done_twice": len(account.done_twice),
        "answers_paid_twice_unexplained": account.paid_twice - account.paid_twice_explained,
        "unknown_outcomes_reported": account.unknown_outcomes,
        "unknown_outcomes_unreported": len(account.unreported),
        "answers_paid_twice_explained": account.paid_twice_explained,
        "orders": account.orders,
        "orders_not_in_the_audit": account.orders_missing,
        "points_fired": len(account.fired),
        "points_never_fired": len(never),
        "seconds": round(seconds),
    }
    ended = ", ".join(f"{count} {status}" for status, count in account.statuses.most_common())
    text = (
        f"{account.programs} random agents ({AT_A_TIME} at a time, {SLOTS} workers, the provider simulated) under {account.kills} kills "
        f"by SIGKILL, {sum(account.fired.values())} of them by {len(account.fired)} different fault switches, the rest where it stood. "
        f"They ended as: {ended}.\n\n"
        + table(["boundary", "switch", "fired"], [(*_split(point), count) for point, count in sorted(account.fired.items())])
        + (f"\n\nNever reached in this run: {', '.join(never)}." if never else "")
    )
    return Measured("kills", figures, text)


def _split(point: str) -> tuple[str, str]:
    where, _, rest = point.partition(":")
    return where, rest


async def play(programs: int, seed: int) -> tuple[Account, float]:
    """Run the programs from a seed on, under kills; what came of it, and how long it took in seconds."""
    account = Account(programs)
    async with _house(seed) as house:
        started = time.monotonic()
        over = asyncio.Event()
        deciding = asyncio.create_task(house.people.work())
        chance = random.Random(seed)
        dying = [asyncio.create_task(_die_and_rise(house, slot, chance, account, over)) for slot in range(SLOTS)]
        runs = await _all_programs(house, programs, seed, account)
        over.set()
        await asyncio.gather(*dying)
        deciding.cancel()
        seconds = time.monotonic() - started
        account.fired = Counter(faults.fired(house.premises.folder))
        await _settle(house, runs, account)
        await _add_up(house, runs, account)
    return account, seconds


@contextlib.asynccontextmanager
async def _house(seed: int) -> AsyncIterator[House]:
    async with (
        open_stack(StackSettings()) as stack,
        open_premises(stack, "kills", "benchmarks.programs:answer", ["--latency", "*,first_token_s=0.05"]) as premises,
        asyncpg.create_pool(premises.settings.database_url, min_size=1, max_size=6) as pool,
    ):
        await pool.execute(SCHEMA)
        premises.environ[faults.FOLDER_VARIABLE] = str(premises.folder)
        async with _worker(premises, "first", "first"):  # registers the agents, applies the migrations
            pass
        async with Orchestrator.connect(premises.settings) as holdfast:
            yield House(premises, holdfast, pool, People(await connect_temporal(premises.settings), pool, seed))


@contextlib.asynccontextmanager
async def _worker(premises: Premises, slot: str, name: str) -> AsyncIterator[ServerProcess]:
    environ = {**premises.environ, "FAULTS_SLOT": slot}
    async with worker_process([AGENTS], environ, premises.folder, f"worker-{name}", module="testkit.faulty_worker") as started:
        yield started


async def _die_and_rise(house: House, slot: int, chance: random.Random, account: Account, over: asyncio.Event) -> None:
    """Start a worker with one switch armed, see it die, start the next; points that have not fired yet come first."""
    life = 0
    enough = asyncio.create_task(over.wait())
    while not over.is_set():
        life += 1
        fault = _next_fault(house.premises.folder, chance)
        faults.armed(house.premises.folder, slot, fault)
        try:
            async with _worker(house.premises, str(slot), f"{slot}-{life}") as started:
                ended = asyncio.ensure_future(started.wait())
                span_s = LIVES_AT_MOST_S * chance.uniform(0.5, 1)
                await asyncio.wait([ended, enough], timeout=span_s, return_when=asyncio.FIRST_COMPLETED)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(started.pid, signal.SIGKILL)
                await ended
                account.kills += 1
        except RuntimeError:  # it died while it was starting, by its switch
            account.kills += 1


def _next_fault(folder: Path, chance: random.Random) -> Fault:
    """A switch at a boundary that some worker has passed; one that has not fired yet, as long as there is any."""
    names_passed = sorted({point.rpartition(":")[0] for point in faults.seen(folder)}) or ["activity:call_model"]
    points = [f"{name}:{moment}" for name in names_passed for moment in _moments(name)]
    done = set(faults.fired(folder))
    fresh = [point for point in points if point not in done]
    return Fault(chance.choice(fresh or points), nth=chance.randint(1, 3))


def _moments(name: str) -> tuple[str, ...]:
    return ("before", "after") if name.startswith(("signal:", "update:")) else ("before", "during", "after")


async def _all_programs(house: House, programs: int, seed: int, account: Account) -> list[str]:
    gate = asyncio.Semaphore(AT_A_TIME)
    deadline = time.monotonic() + GIVE_UP_S
    none_after = time.monotonic() + 60 * float(os.environ.get("MINUTES", "120"))

    async def one(number: int) -> str | None:
        async with gate:
            if time.monotonic() > none_after:
                return None
            run = await house.holdfast.start("clerk", program(seed + number).text, idempotency_key=f"program-{seed + number}")
            while time.monotonic() < deadline:
                with contextlib.suppress(Exception):
                    status = await run.status()
                    if status in ENDED:
                        account.statuses[status.value] += 1
                        return run.id
                await asyncio.sleep(0.5)
            return run.id

    started = await asyncio.gather(*(one(number) for number in range(programs)))
    runs = [run for run in started if run is not None]
    account.programs = len(runs)
    return runs


async def _settle(house: House, runs: list[str], account: Account) -> None:
    """With an unharmed worker: whatever is still in the air comes to its end."""
    async with _worker(house.premises, "last", "last"):
        await asyncio.sleep(SETTLE_S)
        for run_id in runs:
            status = await (await house.holdfast.get(run_id)).status()
            if status not in (*ENDED, RunStatus.PARKED):
                account.lost.append(f"{run_id}: {status.value}")


async def _add_up(house: House, runs: list[str], account: Account) -> None:
    rows = await house.database.fetch(
        "select tool, idempotency_key, count(*) as times from done where tool <> 'note_down' group by 1, 2 having count(*) > 1"
    )
    account.done_twice = [f"{row['tool']} {row['idempotency_key']}: {row['times']} times" for row in rows]
    account.unknown_outcomes = len(house.people.unknown_outcomes)
    hidden = await house.database.fetch(
        "select tool, key, run_id, step from effects e where state = 'unknown' and not exists ("
        "select from dead_letters d where d.failure_class = 'unknown_outcome' and (d.run_id, d.step) = (e.run_id, e.step))"
    )
    account.unreported = [f"{row['tool']} {row['key']}" for row in hidden]
    await _count_answers(house, account)
    noted = Counter({row["run_id"]: row["n"] for row in await house.database.fetch(_NOTED)})
    account.orders = sum(house.people.sent.values())
    account.orders_missing = sum(max(0, sent - noted[run]) for run, sent in house.people.sent.items())


_NOTED = "select run_id, count(*) as n from decisions where channel = 'signal' group by 1"


async def _count_answers(house: House, account: Account) -> None:
    """Answers of the provider's journal beyond one a step; those that were in the air at a kill are known as unknown spend."""
    answers = Counter(entry["idempotency_key"] for entry in await house.premises.journal() if entry["status"] == 200)
    unknown: Counter[str] = Counter()
    for row in await house.database.fetch("select run_id, step from model_calls where state in ('unknown', 'superseded', 'in_flight')"):
        unknown[f"{row['run_id']}:{row['step']}"] += 1
    for key, count in answers.items():
        if count > 1:
            account.paid_twice += count - 1
            account.paid_twice_explained += min(count - 1, unknown[key])


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure()).figures))
