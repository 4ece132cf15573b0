"""Thousands of runs that wait for a yes on one worker: its memory, what waiting costs, and how soon a hundred go on after a bulk yes.

`RUNS=n make bench NAME=parked` for another number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import psutil

import worker
from benchmarks.laboratory import HERE, Cpu, cpu_s
from benchmarks.premises import open_premises
from benchmarks.results import Measured, table
from client.orchestrator import Orchestrator
from client.run import Run
from devstack.stack import RunningStack, StackSettings, open_stack
from testkit.processes import worker_process
from workflows.contracts.errors import UnavailableError

RUNS = 10_000
CHOSEN = 100
"""How many get their yes: from the first that was started to the last in equal steps, so that most are not in the worker's cache."""
STARTED_AT_ONCE = 50
WARM_UP = 20
QUIET_S = 30.0
"""How long what waiting costs is measured."""
RATE_PER_S = 1_000.0
"""Of the bulk yes: more than can be carried out, so that it is not what is measured."""
GIVE_UP_S = 7_200.0
AGENT = "waiting"
REQUEST = "look up 1 things"
MB = 2**20


@dataclass
class Account:
    """What was measured; CPU is of the worker, the Temporal server and PostgreSQL."""

    runs: int
    start_s: float = 0
    start_cpu: Cpu = field(default_factory=lambda: Cpu(0, 0, 0))
    quiet_cpu: Cpu = field(default_factory=lambda: Cpu(0, 0, 0))
    """Seconds of CPU a second, while all wait."""
    before_mb: float = 0
    waiting_mb: float = 0
    after_mb: float = 0
    temporal_mb: float = 0
    ordered_s: float = 0
    resume_s: float = 0
    still_waiting: int = 0
    load: Sequence[float] = ()
    """Of the machine, over the last minute: when the runs began to be started, and when the yes was given."""


@dataclass
class House:
    """One worker process, a client, and the servers."""

    stack: RunningStack
    holdfast: Orchestrator
    worker: psutil.Process

    def cpu(self) -> Cpu:
        """CPU seconds used so far."""
        server, postgres = self.stack.temporal, self.stack.postgres
        assert server is not None
        assert postgres is not None
        return Cpu(cpu_s(self.worker), cpu_s(psutil.Process(server.pid)), cpu_s(psutil.Process(postgres.pid)))

    def rss_mb(self) -> float:
        """The worker's memory."""
        return float(self.worker.memory_info().rss / MB)


async def measure() -> Measured:
    """Start all, let them wait, let a hundred go on; a quarter of an hour on two cores that do nothing else."""
    account = await play(int(os.environ.get("RUNS", RUNS)))
    figures: dict[str, float | int | str] = {
        "parked": account.runs,
        "worker_rss_mb": round(account.waiting_mb),
        "worker_rss_mb_before": round(account.before_mb),
        "worker_rss_mb_after": round(account.after_mb),
        "cached_runs": worker.CACHED_RUNS,
        "resume_100_s": round(account.resume_s, 2),
        "ordered_100_s": round(account.ordered_s, 2),
        "start_s": round(account.start_s, 1),
        "still_waiting": account.still_waiting,
        "quiet_worker_cpu": round(account.quiet_cpu.worker, 4),
        "quiet_server_cpu": round(account.quiet_cpu.server, 4),
        "quiet_database_cpu": round(account.quiet_cpu.database, 4),
        "temporal_rss_mb": round(account.temporal_mb),
        "load_at_start": round(account.load[0], 1),
        "load_at_resume": round(account.load[1], 1),
    }
    return Measured("parked", figures, _text(account))


def _text(account: Account) -> str:
    each = account.start_cpu * (1e3 / account.runs)
    rows = [
        ["a start, CPU ms a run", each.worker, each.server, each.database],
        ["all wait, CPU ms a second", *(1e3 * share for share in _parts(account.quiet_cpu))],
    ]
    return (
        f"{account.runs:,} runs, each with one model call behind it, wait for a yes on one worker process. Before them, after {WARM_UP} "
        f"runs, it held {account.before_mb:.0f} MB; while all wait {account.waiting_mb:.0f} MB. It keeps at most {worker.CACHED_RUNS:,} "
        f"runs in its cache; the others are read from their histories when they go on. Temporal's dev server held "
        f"{account.temporal_mb:.0f} MB.\n\n"
        f"A bulk yes to {CHOSEN} of them, taken evenly from the first to the last, by the client's inbox at up to {RATE_PER_S:,.0f} a "
        f"second: all were acknowledged after {account.ordered_s:.1f} s, and had their tool's result and their answer after "
        f"{account.resume_s:.1f} s. {account.still_waiting:,} went on waiting.\n\n"
        f"All were started and in the inbox within {account.start_s:.0f} s. What that and the waiting took:\n\n"
        + table(["", "worker", "Temporal server", "PostgreSQL"], rows)
        + f"\n\nThe machine has {os.cpu_count()} cores; its load was {account.load[0]:.1f} when the runs began to be started and "
        f"{account.load[1]:.1f} when the yes was given."
    )


async def play(runs: int) -> Account:
    """All of it, with so many runs."""
    account = Account(runs)
    async with open_stack(StackSettings(ui_port=None)) as stack, _house(stack) as house:
        await _warm_up(house)
        account.before_mb = house.rss_mb()
        loads = [os.getloadavg()[0]]
        before, began = house.cpu(), time.monotonic()
        chosen = await _start(house, runs)
        account.start_s, account.start_cpu = time.monotonic() - began, house.cpu() - before
        before = house.cpu()
        _say(f"all wait; nothing is done for {QUIET_S:g} s")
        await asyncio.sleep(QUIET_S)
        account.quiet_cpu = (house.cpu() - before) * (1 / QUIET_S)
        account.waiting_mb = house.rss_mb()
        assert stack.temporal is not None
        account.temporal_mb = psutil.Process(stack.temporal.pid).memory_info().rss / MB
        account.load = (*loads, os.getloadavg()[0])
        await _resume(house, chosen, account)
        account.after_mb = house.rss_mb()
    return account


@contextlib.asynccontextmanager
async def _house(stack: RunningStack) -> AsyncIterator[House]:
    async with (
        open_premises(stack, "parked", "benchmarks.simulation:answer") as premises,
        worker_process([HERE / "agents"], premises.environ, premises.folder) as started,
        Orchestrator.connect(premises.settings) as holdfast,
    ):
        yield House(stack, holdfast, psutil.Process(started.pid))


async def _warm_up(house: House) -> None:
    """A few runs from start to end: pools and caches fill."""
    runs = [await house.holdfast.start(AGENT, REQUEST, user="warm-up") for _ in range(WARM_UP)]
    await _in_the_inbox(house, WARM_UP)
    await house.holdfast.inbox.decide("approve", by="bench", rate_per_s=RATE_PER_S, user="warm-up")
    await asyncio.gather(*(run.result(timeout_s=60) for run in runs))


async def _start(house: House, runs: int) -> list[Run]:
    """Start all and wait until all wait; those that will get their yes, which are another user's than the others."""
    room, step = asyncio.Semaphore(STARTED_AT_ONCE), max(1, runs // CHOSEN)
    begun = 0

    async def start(number: int) -> Run:
        nonlocal begun
        user = "chosen" if number % step == 0 and number // step < CHOSEN else "others"
        async with room:
            run = await _started(house, f"parked-{number}", user)
        begun += 1
        if begun % 500 == 0:
            _say(f"{begun:,} of {runs:,} started")
        return run

    all_runs = await asyncio.gather(*(start(number) for number in range(runs)))
    await _in_the_inbox(house, runs)
    return [all_runs[number * step] for number in range(min(CHOSEN, runs))]


async def _started(house: House, run_id: str, user: str) -> Run:
    """One start; on a busy machine Temporal may be slow to answer, and the same start again is the same run."""
    async with asyncio.timeout(GIVE_UP_S):
        while True:
            try:
                return await house.holdfast.start(AGENT, REQUEST, user=user, run_id=run_id)
            except UnavailableError as error:
                _say(f"{run_id} is started again: {error}")


async def _in_the_inbox(house: House, count: int) -> None:
    async with asyncio.timeout(GIVE_UP_S):
        while await house.holdfast.inbox.count(agent=AGENT) < count:  # noqa: ASYNC110 - other processes fill it
            await asyncio.sleep(0.25)


async def _resume(house: House, chosen: list[Run], account: Account) -> None:
    """A yes to all that were chosen, until the last of them has its answer."""
    _say(f"a yes to {len(chosen)}")
    began = time.monotonic()
    ends = [asyncio.create_task(run.result(timeout_s=600)) for run in chosen]
    given = await house.holdfast.inbox.decide("approve", by="bench", rate_per_s=RATE_PER_S, user="chosen")
    account.ordered_s = time.monotonic() - began
    answers = await asyncio.gather(*ends)
    account.resume_s = time.monotonic() - began
    account.still_waiting = await house.holdfast.inbox.count(agent=AGENT)
    assert (given.held + given.sent, set(answers)) == (len(chosen), {"Looked up 1 things."}), given
    assert account.still_waiting == account.runs - len(chosen)


def _parts(cpu: Cpu) -> tuple[float, float, float]:
    return cpu.worker, cpu.server, cpu.database


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
