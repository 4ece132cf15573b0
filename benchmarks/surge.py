"""The surge: 200 tickets in a minute against a provider that enforces its limits, over four workers; and the same with troubles."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import yaml

from benchmarks.results import Measured, table
from benchmarks.surge_judging import HEAD, WINDOW_S, Bound, Found, used
from benchmarks.tellings import Tellings
from client.orchestrator import Orchestrator
from client.settings import Settings
from devstack.process import ServerProcess
from devstack.stack import RunningStack, StackSettings, open_stack
from testkit.processes import SimulatedUrls, addresses, provider_process, worker_process

HERE = Path(__file__).parent
WORKERS = 4
TICKETS = 200
CALLS = 3
ARRIVE_WITHIN_S = 60.0
URGENT_EVERY = 10
HEADROOM = 0.02
"""Of the limits, as the provider enforces them: what is kept for jitter between our slots and its clock."""
BURST_S = 6.0
"""What the provider lets through at once, in seconds' worth of the limit: much stricter than a whole minute's worth."""
TOOLS = '''"""The surge's tool: short results, so that all calls are of about the same size."""

from holdfast import tool


@tool
async def look_up(number: int) -> str:
    """Look a thing up."""
    return f"thing {number}"
'''
PROVIDER_KEY = "bench-key-of-no-worth"
MAX_OUTPUT_TOKENS = 128
SECOND = "gpt-5"
GIVE_UP_S = 900.0


@dataclass(frozen=True)
class Case:
    """One surge. `times` multiplies the limits, so that the troubles need not take six minutes each."""

    name: str
    times: float = 1.0
    second: bool = False
    trouble: Callable[[Surge], Awaitable[str]] | None = None


@dataclass
class Surge:
    """A surge that goes on."""

    case: Case
    stack: RunningStack
    holdfast: Orchestrator
    provider: SimulatedUrls
    workers: list[ServerProcess]
    tellings: Tellings
    happened: str = ""
    happened_at: float = 0.0
    lowered: tuple[float, float] | None = None
    """Since when the provider lets fewer requests through, and how many a minute."""
    ended: dict[str, float] = field(default_factory=dict)

    @property
    def arrive_within_s(self) -> float:
        """How long the tickets take to come in; shorter where the limits are higher, so that they bind as much."""
        return ARRIVE_WITHIN_S / self.case.times

    @property
    def requests_per_minute(self) -> float:
        """The account's limit."""
        return 100.0 * self.case.times

    @property
    def tokens_per_minute(self) -> float:
        """Binds too: about as many calls as the limit on requests lets through."""
        return 17_400.0 * self.case.times

    @property
    def bounds(self) -> list[Bound]:
        """The limits that stood: the account's as the provider enforces them, and ours on the second model."""
        bounds = [Bound("requests", self.requests_per_minute, lowered=self.lowered), Bound("tokens", self.tokens_per_minute)]
        if self.case.second:
            bounds.append(Bound("requests", self.second_per_minute, SECOND))
        return bounds

    @property
    def second_per_minute(self) -> float:
        """What we allow of the second model: it is given longer than the rest of the surge takes, so in the end it binds alone."""
        return self.requests_per_minute / 5

    async def control(self, path: str) -> Any:
        """What the provider says of itself."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.provider.control}/{path}") as answer:
            answer.raise_for_status()
            return await answer.json()


async def _lower(surge: Surge) -> str:
    """The provider takes a third of its requests away."""
    lowered = surge.requests_per_minute * 2 / 3
    body = {"account": {"requests_per_minute": lowered, "tokens_per_minute": surge.tokens_per_minute, "burst_s": BURST_S}}
    async with aiohttp.ClientSession() as http, http.put(f"{surge.provider.control}/limits", json=body) as answer:
        answer.raise_for_status()
    surge.lowered = (time.time(), lowered)
    return f"the provider lowered its limit to {lowered:.0f} requests/min"


async def _kill(surge: Surge) -> str:
    victim = surge.workers[0]
    await victim.kill()
    assert victim.ended, "the worker has outlived its kill"
    return "one of four workers was killed"


async def _restart_database(surge: Surge) -> str:
    postgres = surge.stack.postgres
    assert postgres is not None
    await postgres.stop()
    await asyncio.sleep(3)
    await postgres.start()
    return "the database was down for three seconds and more"


CASES = (
    Case("as asked for"),
    Case("a second, slower model on the account", times=5, second=True),
    Case("limit lowered in mid-run", times=5, trouble=_lower),
    Case("a worker killed", times=5, trouble=_kill),
    Case("the database restarted", times=5, trouble=_restart_database),
)


async def measure() -> Measured:
    """All cases, each on servers of its own."""
    wanted = os.environ.get("SURGE_CASES", "")
    cases = [case for place, case in enumerate(CASES) if not wanted or str(place) in wanted.split(",")]
    found = []
    for case in cases:
        print(f"surge: {case.name}", file=sys.stderr)
        found.append(await _play(case))
        print(f"surge: {found[-1]}", file=sys.stderr)
    first = found[0]
    figures: dict[str, float | int | str] = {
        "answers_429": sum(each.refused for each in found),
        "limit_used": round(first.used, 3),
        "limit_used_least": round(min(each.used for each in found), 3),
        "told_delay_error_p95": round(first.told.error_p95_s, 2),
        "told_within_10_percent_or_2_s": round(first.told.well, 3),
        "tellings": first.told.count,
        "first_told_error_p95": round(first.first_told.error_p95_s, 2),
        "first_told_within": round(first.first_told.well, 3),
        "urgent_p50_s": round(first.urgent_p50_s, 1),
        "normal_p50_s": round(first.normal_p50_s, 1),
        "unfinished": sum(each.unfinished for each in found),
    }
    text = (
        f"{TICKETS} tickets arrive within a minute, {CALLS} model calls each, every {URGENT_EVERY}th urgent; {WORKERS} workers. The "
        f"provider allows 100 requests and 17,400 tokens a minute, {BURST_S:g} s' worth at once; our headroom is {HEADROOM:.0%}. In the "
        f"other cases all goes five times as fast. Used: from the first call to the last, in windows of {WINDOW_S:g} s, of the limit that "
        "was used most in each, as it stood then (the second model's own one with it); the mean. Each wait that a step was told counts, "
        "at first and again; told well is within 10 % or 2 s. Told well after it: what was told once the trouble was there.\n\n"
    )
    return Measured("surge", figures, text + table([*HEAD, "unfinished"], [each.row() for each in found]))


async def _play(case: Case) -> Found:
    async with _open(case) as surge:
        troubling = asyncio.create_task(_trouble(surge))
        async with surge.tellings.watched(), asyncio.TaskGroup() as tickets:
            for number in range(TICKETS):
                tickets.create_task(_ticket(surge, number))
        await troubling
        return await _judge(surge)


async def _trouble(surge: Surge) -> None:
    if surge.case.trouble is not None:
        await asyncio.sleep(surge.arrive_within_s)
        surge.happened = await surge.case.trouble(surge)
        surge.happened_at = time.time()
        print(f"surge: {surge.happened}", file=sys.stderr)


async def _ticket(surge: Surge, number: int) -> None:
    await asyncio.sleep(number * surge.arrive_within_s / TICKETS)
    began = time.monotonic()
    urgent = number % URGENT_EVERY == URGENT_EVERY - 1
    agent = "slow_desk" if surge.case.second and number % 4 == 0 else "desk"
    kind = "urgent" if urgent else "normal"
    # A program that asks again after an outage: the key makes it the same run.
    while time.monotonic() < began + GIVE_UP_S:
        with contextlib.suppress(Exception):
            asked = f"look up {CALLS - 1} things"
            run = await surge.holdfast.start(agent, asked, priority="urgent" if urgent else None, idempotency_key=f"ticket-{number}")
            await run.result(timeout_s=GIVE_UP_S)
            surge.ended[f"{kind}-{number}"] = time.monotonic() - began
            return
        await asyncio.sleep(0.5)


async def _judge(surge: Surge) -> Found:
    limits = await surge.control("limits")
    connection = await asyncpg.connect(surge.stack.database_url)
    try:
        calls = await connection.fetchval("select count(*) from model_calls where state = 'recorded'")
    finally:
        await connection.close()
    await surge.tellings.learn_the_truth()
    took = {kind: [s for name, s in surge.ended.items() if name.startswith(kind)] for kind in ("urgent", "normal")}
    return Found(
        name=surge.case.name,
        calls=calls,
        refused=sum(each["refused"] for each in limits),
        used=used(surge.bounds, await surge.control("journal")),
        told=surge.tellings.all(),
        first_told=surge.tellings.first(),
        told_after=surge.tellings.all(since=surge.happened_at) if surge.happened else None,
        urgent_p50_s=statistics.median(took["urgent"] or [float("nan")]),
        normal_p50_s=statistics.median(took["normal"] or [float("nan")]),
        unfinished=TICKETS - len(surge.ended),
    )


@contextlib.asynccontextmanager
async def _open(case: Case) -> AsyncIterator[Surge]:
    environment = {name: value for name, value in os.environ.items() if name not in ("TEMPORAL_ADDRESS", "DATABASE_URL")}
    async with contextlib.AsyncExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-surge-")))
        stack = await exits.enter_async_context(open_stack(StackSettings(environment=environment)))
        surge = Surge(case, stack, None, None, [], Tellings(stack.database_url))  # type: ignore[arg-type]  # filled in below
        limit = f"account,requests_per_minute={surge.requests_per_minute},tokens_per_minute={surge.tokens_per_minute},burst_s={BURST_S}"
        options = [
            "--limit",
            limit,
            "--latency",
            "gpt-5-mini,first_token_s=0.4,jitter=0.5",
            "--latency",
            f"{SECOND},first_token_s=2,jitter=0.5",
        ]
        provider = await exits.enter_async_context(provider_process("benchmarks.simulation:answer", environment, folder, options))
        environment |= addresses(stack) | {"BENCH_PROVIDER_URL": provider.openai, "BENCH_PROVIDER_KEY": PROVIDER_KEY}
        agents = _write_agents(folder, surge)
        workers = [await exits.enter_async_context(worker_process([agents], environment, folder, f"worker-{n}")) for n in range(WORKERS)]
        holdfast = await exits.enter_async_context(Orchestrator.connect(Settings.from_environment(environment)))
        yield replace(surge, holdfast=holdfast, provider=provider, workers=workers)


def _write_agents(folder: Path, surge: Surge) -> Path:
    """The benchmark's agent, with the provider's limits beside it."""
    agents = folder / "agents"
    agents.mkdir()
    (agents / "tools.py").write_text(TOOLS, encoding="utf-8")
    models = yaml.safe_load((HERE / "agents" / "models.yaml").read_text(encoding="utf-8"))
    models["providers"]["simulated"]["limits"] = {
        "requests_per_minute": surge.requests_per_minute,
        "tokens_per_minute": surge.tokens_per_minute,
        "headroom": HEADROOM,
    }
    models["models"][f"simulated:{SECOND}"]["limits"] = {"requests_per_minute": surge.second_per_minute, "headroom": HEADROOM}
    (agents / "models.yaml").write_text(yaml.safe_dump(models), encoding="utf-8")
    for name, model in (("desk", "simulated:gpt-5-mini"), ("slow_desk", f"simulated:{SECOND}")):
        agent = {
            "name": name,
            "model": model,
            "instructions": "You look things up, one after the other, and then say how many. " * 4,
            "tools": ["look_up"],
            "limits": {"steps": 50, "cost_usd": 10, "time_s": 7_200, "repeats": 20},
            "max_output_tokens": MAX_OUTPUT_TOKENS,
        }
        (agents / f"{name}.yaml").write_text(yaml.safe_dump(agent), encoding="utf-8")
    return agents
