"""A process that begins and ends calls by chance: `python -m tests.integration.state.bookkeeper DSN SEED RUN=LIMIT…`.

It says `ready`, begins when it is told to, and prints a line of JSON for each end. As in a provider's journal a line stands before the
answer is recorded: so a process that is killed has billed what the books may not know.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from decimal import Decimal

from state import model_calls
from state.budgets import BudgetLine
from state.pool import Database
from tests.integration.state.ledger import begin, finish

TASKS = 8
ROUNDS = 45
STEPS = 30
"""Few enough that processes meet at one step."""
ALL = BudgetLine("all", "all", "month", cost_usd=Decimal(8), calls=400)
TEAM = BudgetLine("team", "team:acme", "month", cost_usd=Decimal(3))
OUTPUT_USD = Decimal("0.001")


def tell(what: str, call_id: int, cost_usd: Decimal = Decimal(0)) -> None:
    """One line of the journal."""
    print(json.dumps({"did": what, "call": call_id, "cost": str(cost_usd)}), flush=True)


async def work(database: Database, chance: random.Random, limits: dict[str, Decimal]) -> None:
    """Calls one after the other."""
    for _ in range(ROUNDS):
        run_id, step = chance.choice(list(limits)), chance.randrange(2, STEPS)
        lines = chance.choice([(ALL,), (ALL, TEAM), (TEAM, ALL)])
        begun = await begin(database, run_id, step, cost_usd=limits[run_id], budgets=lines)
        if begun.outcome != "go":
            tell(begun.outcome, 0)
            continue
        await asyncio.sleep(chance.choice([0, 0, 0.002, 0.02]))
        match chance.choice(["finish", "finish", "finish", "fail", "unknown", "leave"]):
            case "finish":
                cost_usd = begun.max_output_tokens * OUTPUT_USD * chance.choice([0, Decimal("0.3"), 1])
                tell("billed", begun.call_id, cost_usd)
                await finish(database, begun.call_id, cost_usd, step=step)
            case "fail":
                tell("failed", begun.call_id)
                await model_calls.fail(database, begun.call_id, "transient", "refused")
            case "unknown":
                tell("unknown", begun.call_id)
                await model_calls.charge_unknown(database, begun.call_id, "transient", "broken off")
            case "leave":
                tell("left", begun.call_id)


async def main(dsn: str, seed: int, limits: dict[str, Decimal]) -> None:
    """Wait for the word, then let all work."""
    async with Database.open(dsn, min_size=TASKS, max_size=TASKS) as database:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(work(database, random.Random(seed * 1_000 + number), limits) for number in range(TASKS)))


if __name__ == "__main__":
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), {name: Decimal(limit) for name, _, limit in (each.partition("=") for each in sys.argv[3:])})
    )
