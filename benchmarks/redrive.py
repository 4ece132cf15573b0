"""Thousands of dead letters redriven by one command at a rate; workers and the command are killed on the way: none twice, none forgotten.

`LETTERS=n RATE=n make bench NAME=redrive` for another size.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.premises import Premises, open_premises
from benchmarks.results import Measured
from client.orchestrator import Orchestrator
from client.temporal import connect_temporal
from devstack.process import ServerProcess
from devstack.stack import RunningStack, StackSettings, open_stack
from testkit.processes import worker_process

LETTERS = 5_000
RATE_PER_S = 50.0
STARTED_AT_ONCE = 50
WORKER_KILLS = (0.25, 0.6)
"""At which share of letters that have gone on a worker is killed; the next one starts at once."""
COMMAND_KILL = 0.5
"""At which share of orders given the command is killed; it is started again as it was."""
GIVE_UP_S = 3_600.0
AGENTS = Path(__file__).with_name("redrive_agents")
COMMAND = (sys.executable, "-m", "client.command_line.main", "dead-letters", "redrive", "--all", "--yes", "--json", "--by", "bench")


@dataclass
class Account:
    """What it came to."""

    letters: int
    rate_per_s: float
    redriven: int = 0
    twice: int = 0
    """Letters that two orders have settled, effects done twice, answers paid twice without a killed worker to explain it."""
    forgotten: int = 0
    """Letters that are still open, and runs that have no answer."""
    worker_kills: int = 0
    command_kills: int = 0
    late: int = 0
    """Orders that came a second time, and changed nothing."""
    paid_twice_explained: int = 0
    parked_s: float = 0
    ordered_s: float = 0
    seconds: float = 0
    reports: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class House:
    """Everything but the workers."""

    premises: Premises
    holdfast: Orchestrator
    database: asyncpg.Pool

    async def count(self, sql: str, *args: Any) -> int:
        """One number of the database, read past Holdfast."""
        return int(await self.database.fetchval(sql, *args))


async def measure() -> Measured:
    """All letters; about ten minutes on two cores."""
    async with open_stack(StackSettings()) as stack:
        account = await play(stack, int(os.environ.get("LETTERS", LETTERS)), float(os.environ.get("RATE", RATE_PER_S)))
    figures: dict[str, float | int | str] = {
        "letters": account.letters,
        "redriven": account.redriven,
        "twice": account.twice,
        "forgotten": account.forgotten,
        "kills": account.worker_kills + account.command_kills,
        "rate_per_s": account.rate_per_s,
        "ordered_s": round(account.ordered_s, 1),
        "late_orders": account.late,
        "answers_paid_twice_explained": account.paid_twice_explained,
        "seconds": round(account.seconds, 1),
    }
    text = (
        f"{account.letters:,} runs, each with one answer paid and one effect done, parked at a limit within {account.parked_s:.0f} s. "
        f"One command orders all of them to go on with another limit, at {account.rate_per_s:g} a second. On the way the worker is killed "
        f"{account.worker_kills} times and the command {account.command_kills} time, and started again as it was. The orders took "
        f"{account.ordered_s:.0f} s, the last answer came after {account.seconds:.0f} s. {account.late} orders came a second time and were "
        "late; they changed nothing."
    )
    return Measured("redrive", figures, text)


async def play(stack: RunningStack, letters: int, rate_per_s: float) -> Account:
    """Park so many runs, redrive them under kills, and add up."""
    account = Account(letters, rate_per_s)
    async with _house(stack) as house:
        workers = contextlib.AsyncExitStack()
        async with workers:
            worker = await workers.enter_async_context(worker_process([AGENTS], house.premises.environ, house.premises.folder, "worker-0"))
            began = time.monotonic()
            await _park(house, letters)
            account.parked_s = time.monotonic() - began
            began = time.monotonic()
            killing = asyncio.create_task(_kill_workers(house, workers, worker, account))
            try:
                await _order(house, account)
                account.ordered_s = time.monotonic() - began
                await killing
                await _until(lambda: _ended(house, letters), "all runs have ended")
            finally:
                killing.cancel()
            account.seconds = time.monotonic() - began
        await _add_up(house, account)
    return account


@contextlib.asynccontextmanager
async def _house(stack: RunningStack) -> AsyncIterator[House]:
    async with (
        open_premises(stack, "redrive", "benchmarks.booking:answer") as premises,
        asyncpg.create_pool(premises.settings.database_url, min_size=1, max_size=4) as pool,
        Orchestrator.connect(premises.settings) as holdfast,
    ):
        await pool.execute("create table if not exists bookings (idempotency_key text)")
        yield House(premises, holdfast, pool)


async def _park(house: House, letters: int) -> None:
    room, tenant = asyncio.Semaphore(STARTED_AT_ONCE), house.premises.settings.task_queue

    async def start(number: int) -> None:
        async with room:
            await house.holdfast.start("clerk", f"order {number}", tenant=tenant, run_id=f"{tenant}-{number}")

    await asyncio.gather(*(start(number) for number in range(letters)))
    open_ = "select count(*) from dead_letters where tenant = $1 and state = 'open'"
    await _until(lambda: _is(house.count(open_, tenant), letters), "all runs are parked")


async def _kill_workers(house: House, workers: contextlib.AsyncExitStack, worker: ServerProcess, account: Account) -> None:
    settled, tenant = "select count(*) from dead_letters where tenant = $1 and state = 'redriven'", house.premises.settings.task_queue
    for share in WORKER_KILLS:
        await _until(lambda: _at_least(house.count(settled, tenant), share * account.letters), "some have gone on")  # noqa: B023
        assert await worker.kill() == -signal.SIGKILL
        account.worker_kills += 1
        name = f"worker-{account.worker_kills}"
        worker = await workers.enter_async_context(worker_process([AGENTS], house.premises.environ, house.premises.folder, name))


async def _order(house: House, account: Account) -> None:
    """The command, killed once in the middle and started again as it was."""
    arguments = (*COMMAND, "--tenant", house.premises.settings.task_queue, "--rate", f"{account.rate_per_s:g}", "--limit", "steps=10")
    while True:
        command = await asyncio.create_subprocess_exec(
            *arguments, env=house.premises.environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert command.stderr is not None
        async for line in command.stderr:
            given = line.decode(errors="replace").partition(" of ")[0].replace(",", "")
            if not account.command_kills and given.isdigit() and int(given) >= COMMAND_KILL * account.letters:
                command.kill()
                account.command_kills += 1
        assert command.stdout is not None
        told = await command.stdout.read()
        code = await command.wait()
        if code == 0:
            account.reports.append(json.loads(told))
            return
        if code != -signal.SIGKILL:
            raise RuntimeError(f"the command ended with {code}: {told.decode(errors='replace')[-1000:]}")


async def _ended(house: House, letters: int) -> bool:
    client = await connect_temporal(house.premises.settings)
    query = f"Tenant = '{house.premises.settings.task_queue}' AND ExecutionStatus = 'Completed'"
    return (await client.count_workflows(query)).count >= letters


async def _add_up(house: House, account: Account) -> None:
    tenant = house.premises.settings.task_queue
    account.redriven = await house.count("select count(*) from dead_letters where tenant = $1 and state = 'redriven'", tenant)
    twice_settled = await house.count(
        "select count(*) from (select from decisions where tenant = $1 and closes group by run_id, letter having count(*) > 1) d", tenant
    )
    account.late = await house.count("select count(*) from decisions where tenant = $1 and outcome = 'late'", tenant)
    booked_twice = await house.count("select count(*) from (select from bookings group by idempotency_key having count(*) > 1) b")
    unanswered = await house.count(
        "select count(*) from runs r where tenant = $1 and not exists (select from transcript t where t.run_id = r.run_id "
        "and t.message->>'role' = 'assistant' and t.message->>'text' like 'Done: %')",
        tenant,
    )
    billed = Counter(entry["idempotency_key"] for entry in await house.premises.journal() if entry["billed"])
    rows = await house.database.fetch(
        "select m.run_id || ':' || step as key from model_calls m join runs r using (run_id) where r.tenant = $1 and m.state = 'unknown'",
        tenant,
    )
    unknown = Counter(row["key"] for row in rows)
    again = {key: times - 1 for key, times in billed.items() if key.startswith(tenant) and times > 1}
    account.paid_twice_explained = sum(min(times, unknown[key]) for key, times in again.items())
    account.twice = twice_settled + booked_twice + sum(again.values()) - account.paid_twice_explained
    account.forgotten = account.letters - account.redriven + unanswered


async def _is(found: Awaitable[int], wanted: int) -> bool:
    return await found == wanted


async def _at_least(found: Awaitable[int], wanted: float) -> bool:
    return await found >= wanted


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    print(f"until {what}", file=sys.stderr, flush=True)
    async with asyncio.timeout(GIVE_UP_S):
        while not await condition():  # noqa: ASYNC110 - other processes tell nobody
            await asyncio.sleep(0.25)
