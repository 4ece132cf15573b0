"""Three processes on the same books, by chance and by seed: nothing is passed, and the ledger is what the provider has billed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from state import budgets, model_calls
from state.pool import Database
from tests.integration.state.bookkeeper import ALL, TEAM
from tests.integration.state.ledger import books, found, new_run, sub_run
from tests.integration.state.test_budgets import GUARD

WITHIN_S = 60.0
LEDGER = "select call_id, state, cost_usd, reserved_usd from model_calls where step > 1"


@dataclass
class Bookkeeper:
    """One process, and the journal of what it did."""

    process: Process
    journal: list[dict[str, Any]] = field(default_factory=list)

    async def go(self, *, killed_after: int | None = None) -> None:
        """Let it work to its end, or kill it after so many lines."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"go\n")
        async for line in self.process.stdout:
            self.journal.append(json.loads(line))
            if len(self.journal) == killed_after:
                self.process.kill()
        assert (await self.process.wait() < 0) == (killed_after is not None), "it was killed, or ended by itself"


@contextlib.asynccontextmanager
async def bookkeepers(url: str, seed: int, limits: dict[str, Decimal]) -> AsyncIterator[list[Bookkeeper]]:
    """Three of them, ready."""
    async with contextlib.AsyncExitStack() as exits:
        found_ = []
        for number in range(3):
            words = [url, str(seed * 10 + number), *(f"{run_id}={limit}" for run_id, limit in limits.items())]
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.integration.state.bookkeeper", *words, stdin=PIPE, stdout=PIPE
            )
            exits.push_async_callback(_ended, process)
            found_.append(Bookkeeper(process))
        for each in found_:
            assert each.process.stdout is not None
            assert await asyncio.wait_for(each.process.stdout.readline(), WITHIN_S) == b"ready\n"
        yield found_


async def _ended(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


async def family(database: Database) -> dict[str, Decimal]:
    """A run with two sub-runs, and one beside it; their limits bind at times, and so do both budgets."""
    root, other = await new_run(database, 4), await new_run(database, 9)
    children = [f"{root}.2", f"{root}.3"]
    await found(database, root, [sub_run(children[0], 1), sub_run(children[1], 9)])
    return {root: Decimal(4), other: Decimal(9), children[0]: Decimal(1), children[1]: Decimal(9)}


@pytest.mark.parametrize(("seed", "killed_after"), [(1, None), (2, None), (3, 60)], ids=["one", "another", "one killed"])
async def test_three_processes_pass_no_budget_and_their_journals_are_the_ledger(
    guarded: Database, guarded_url: str, seed: int, killed_after: int | None
) -> None:
    await guarded.execute(GUARD)
    limits = await family(guarded)
    async with bookkeepers(guarded_url, seed, limits) as processes, asyncio.timeout(WITHIN_S):
        await asyncio.gather(processes[0].go(killed_after=killed_after), *(each.go() for each in processes[1:]))
    await model_calls.settle_orphans(guarded, 0)

    journal = [line for each in processes for line in each.journal]
    did = Counter(line["did"] for line in journal)
    assert min(did[each] for each in ("billed", "failed", "unknown", "left", "over_budget", "recorded")) > 0, "all of it has happened"

    ledger = {row["call_id"]: row for row in await guarded.fetch(LEDGER)}
    billed = {line["call"]: Decimal(line["cost"]) for line in journal if line["did"] == "billed"}
    killed = {line["call"] for line in processes[0].journal if killed_after is not None}
    for call_id, row in ledger.items():
        if call_id in billed and row["state"] in ("recorded", "superseded"):
            assert row["cost_usd"] == billed[call_id]
        elif call_id in billed:
            assert call_id in killed, "only who was killed has billed what is not recorded"
            assert row["state"] == "unknown"
            assert row["cost_usd"] == row["reserved_usd"] >= billed[call_id]
        else:
            assert row["state"] in ("unknown", "failed")
            assert row["cost_usd"] == (0 if row["state"] == "failed" else row["reserved_usd"])
    assert billed.keys() <= ledger.keys()
    await the_books_are_the_ledger(guarded, limits)


async def the_books_are_the_ledger(database: Database, limits: dict[str, Decimal]) -> None:
    """Every budget and every run holds what the calls below it cost, nothing is reserved any more, and no limit is passed."""
    states = {state.budget: state for state in await budgets.current(database)}
    for line in (ALL, TEAM):
        spent = await database.fetchval(
            "select sum(m.cost_usd) from model_calls m join budget_periods b on b.period_id = any(m.budget_periods) where b.budget = $1",
            line.id,
        )
        now = states[line.id]
        assert (now.spent_usd, now.reserved_usd, now.reserved_calls, now.reserved_tokens) == (spent, 0, 0, 0)
        assert line.cost_usd is not None
        assert spent <= line.cost_usd
    below = "select coalesce(sum(cost_usd), 0) from model_calls join runs r using (run_id) where r.run_id = $1 or $1 = any(r.ancestors)"
    for run_id, limit in limits.items():
        spent = await database.fetchval(below, run_id)
        own = await books(database, run_id)
        assert (own.spent_usd, own.reserved_usd) == (spent, 0)
        assert spent <= limit
