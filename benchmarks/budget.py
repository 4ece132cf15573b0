"""One budget and four worker processes that all want it: what is spent at most, and whether the ledger says what the provider does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from activities.inference import asking, pricing
from activities.inference.asking import Answered, Kept, Refused
from activities.inference.gateway import Gateway
from activities.inference.opening import ConfiguredInference
from benchmarks.results import Measured, table
from devstack.postgres import EmbeddedPostgres, PostgresSettings
from devstack.process import ServerProcess
from state import budgets, model_calls, runs, transcripts
from state.migrate import migrate
from state.pool import Database
from state.runs import NewRun
from testkit.processes import process, provider_process
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.errors import StepError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.messages import Message, Role, Usage
from workflows.contracts.provider_settings import ModelSettings
from workflows.contracts.steps import ModelCallRequest

PROCESSES = 4
CALLERS = 16
"""In each process; each calls again until the budget has no room left for it."""
BUDGET_USD = Decimal("0.05")
ORPHANED_AFTER_S = 10.0
GIVE_UP_S = 180.0
PROVIDER_KEY = "bench-key-of-no-worth"
PRICE = ModelSettings(input_usd_per_million=Decimal("0.25"), output_usd_per_million=Decimal(2), context_window_tokens=100_000)
AGENT = AgentDefinition(name="desk", instructions="You look things up, and then say how many.", max_output_tokens=128)


@dataclass(frozen=True)
class Found:
    """What one case came to, in USD."""

    name: str
    calls: int
    refused: int
    ledger_usd: Decimal
    unknown_usd: Decimal
    journal_usd: Decimal
    journal_calls: int

    @property
    def overspend_usd(self) -> Decimal:
        """Of the ledger or the provider's journal, whichever says more; below 0: so much is left."""
        return max(self.ledger_usd, self.journal_usd) - BUDGET_USD


async def measure() -> Measured:
    """The budget spent to its end; and the same with one process killed in the middle of its calls."""
    found = [await _play("as asked for", kill=False), await _play("a process killed in mid-call", kill=True)]
    plain, killed = found
    figures: dict[str, float | int | str] = {
        "overspend_usd": float(max(each.overspend_usd for each in found)),
        "ledger_minus_journal_usd": float(plain.ledger_usd - plain.journal_usd),
        "calls": plain.calls,
        "refused": plain.refused,
        "unknown_usd_killed": float(killed.unknown_usd),
        "ledger_minus_journal_usd_killed": float(killed.ledger_usd - killed.journal_usd),
    }
    head = ["case", "calls paid", "refused", "budget USD", "ledger USD", "of it unknown", "provider's journal USD", "calls in the journal"]
    rows = [
        (
            each.name,
            each.calls,
            each.refused,
            f"{BUDGET_USD:f}",
            f"{each.ledger_usd:.6f}",
            f"{each.unknown_usd:.6f}",
            f"{each.journal_usd:.6f}",
            each.journal_calls,
        )
        for each in found
    ]
    text = (
        f"{PROCESSES} processes with {CALLERS} callers each, through the gateway and the SDK, until one budget of a day has no room for "
        "another call; the provider's journal is priced by the same table:\n\n"
    )
    return Measured("budget", figures, text + table(head, rows))


async def _play(name: str, *, kill: bool) -> Found:
    environ = {key: value for key, value in os.environ.items() if key not in ("TEMPORAL_ADDRESS", "DATABASE_URL")}
    async with contextlib.AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-budget-")))
        postgres = EmbeddedPostgres(PostgresSettings(folder=folder / "postgres"))
        await exits.enter_async_context(postgres.running())
        await migrate(postgres.dsn)
        slow = ["--latency", "*,first_token_s=0.2,jitter=0.5"]
        provider = await exits.enter_async_context(provider_process("benchmarks.simulation:answer", environ, folder, slow))
        environ |= {"BENCH_PROVIDER_URL": provider.openai, "BENCH_PROVIDER_KEY": PROVIDER_KEY}
        start_at = str(time.time() + 4.0)
        workers = [
            await exits.enter_async_context(process(f"caller-{number}", _command(postgres.dsn, number, start_at), environ, folder))
            for number in range(PROCESSES)
        ]
        if kill:
            exits.push_async_callback(_cancelled, asyncio.create_task(_sweep(postgres.dsn)))
            await _kill_in_mid_call(postgres.dsn, workers[0])
        refused = sum([await _ended(each) for each in workers[1 if kill else 0 :]])
        found = await _judge(name, postgres.dsn, provider.control, refused)
        assert (found.unknown_usd > 0) == kill, "a killed process leaves unknown spend, and nothing else does"
        return found


async def _kill_in_mid_call(dsn: str, worker: ServerProcess) -> None:
    async with Database.open(dsn, max_size=2) as database, asyncio.timeout(GIVE_UP_S):
        in_the_air = "select count(*) from model_calls where run_id like '0-%' and state = 'in_flight'"
        while await database.fetchval(in_the_air) < CALLERS / 2:  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.02)
    await worker.kill()
    assert worker.ended, "the process has outlived its kill"


async def _sweep(dsn: str) -> None:
    """What workers do every minute, sooner: here a call takes less than a second."""
    async with Database.open(dsn, max_size=2) as database:
        while True:
            await asyncio.sleep(1.0)
            await model_calls.settle_orphans(database, ORPHANED_AFTER_S)


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _command(dsn: str, number: int, start_at: str) -> list[str]:
    return ["-m", "benchmarks.budget", dsn, str(number), start_at]


async def _ended(worker: ServerProcess) -> int:
    """How many calls were refused, when the process is through."""
    async with asyncio.timeout(GIVE_UP_S):
        while not worker.ended:  # noqa: ASYNC110 - a process that is looked at
            await asyncio.sleep(0.1)
    told: dict[str, Any] = json.loads(worker.plan.log.read_text("utf-8").splitlines()[-1])
    return int(told["refused"])


async def _judge(name: str, dsn: str, control: str, refused: int) -> Found:
    async with Database.open(dsn, max_size=2) as database:
        await model_calls.settle_orphans(database, 0)
        calls = await database.fetchval("select count(*) from model_calls where state = 'recorded'")
        (standing,) = await budgets.current(database)
        charged = await database.fetchval("select sum(cost_usd) from model_calls")
    assert (standing.spent_usd, standing.reserved_usd) == (charged, 0), "the budget is what its calls were charged"
    async with aiohttp.ClientSession() as http, http.get(f"{control}/journal") as answer:
        entries = [entry for entry in await answer.json() if entry["billed"] and entry["usage"]]
    prices = [pricing.charge("simulated", "gpt-5-mini", Usage.model_validate(entry["usage"]), PRICE).cost_usd for entry in entries]
    return Found(name, calls, refused, standing.spent_usd, standing.unknown_usd, sum(prices, Decimal(0)), len(entries))


def _settings() -> InferenceSettings:
    return InferenceSettings.model_validate(
        {
            "providers": {
                "simulated": {"dialect": "openai", "base_url": os.environ["BENCH_PROVIDER_URL"], "api_key_env": "BENCH_PROVIDER_KEY"}
            },
            "tiers": {"smart": "simulated:gpt-5-mini"},
            "models": {"simulated:gpt-5-mini": PRICE.model_dump(exclude_unset=True)},
            "budgets": {"day": {"scope": "global", "period": "day", "cost_usd": BUDGET_USD}},
        }
    )


async def _spend(dsn: str, number: int, start_at: float) -> int:
    """Call by all callers until nothing goes any more; how often the budget refused."""
    async with (
        Database.open(dsn, max_size=8) as database,
        contextlib.aclosing(ConfiguredInference(os.environ)) as inference,
    ):
        await inference.keyring.ready()
        gateway = Gateway(database, *inference.take(_settings()))
        await asyncio.sleep(max(0.0, start_at - time.time()))

        async def caller(name: int) -> int:
            refused = 0
            for count in range(10_000):
                if isinstance(await _call(database, gateway, f"{number}-{name}-{count}"), Refused):
                    refused += 1
                    break
            return refused

        return sum(await asyncio.gather(*(caller(name) for name in range(CALLERS))))


async def _call(database: Database, gateway: Gateway, run_id: str) -> Any:
    new = NewRun(run_id, "default", AGENT.name, "hash", None, None, "body", Decimal(1))
    await runs.create(database, new, Message(role=Role.USER, text="look up 0 things"))
    step = ModelCallRequest(run_id=run_id, step=1, agent=AGENT.pin(), tenant="default")
    while True:
        try:
            return await gateway.pay(step, asking.whole(AGENT, ()), 1, _keep)
        except StepError as error:  # the room that is left is reserved by calls in the air
            if error.code != "budget_in_the_air":
                raise
            await asyncio.sleep(error.retry_after_s or 0.0)


def _keep(answered: Answered) -> Kept:
    return Kept({"text": answered.response.text}, [transcripts.row(1, Message(role=Role.ASSISTANT, text=answered.response.text))])


if __name__ == "__main__":
    print(json.dumps({"refused": asyncio.run(_spend(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))}), flush=True)
