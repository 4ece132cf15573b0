"""`make demo SURGE=1`: every ticket several times at once, under limits that bind; limiter use, waits, tiers and cost in one screen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from client.orchestrator import Orchestrator
from client.run import Run
from client.settings import Settings
from devstack.stack import RunningStack, StackSettings, open_stack
from examples.support.shop_data import Ticket, load_shop, load_tickets
from examples.support.shop_tables import create_shop
from workflows.contracts.errors import RunParkedError
from workflows.contracts.runs import RunStatus

from . import lead
from .house import House, until_agents_are_known
from .options import Options
from .play import ENTRY_AGENT
from .screen import Screen

WORKERS = 3
COPIES = 3
"""How often every ticket comes in."""
URGENT_EVERY = 6
REQUESTS_PER_MINUTE = {"gpt-5-mini": 150, "claude-sonnet-4-5": 75}
DOWNGRADE_WAIT_S = 8
ENDS_WITHIN_S = 900
HEADROOM = 0.02
BURST_S = 6
LOOK_EVERY_S = 1.0
LINE_EVERY_S = 5.0
_CALLS = """
select count(*) filter (where state = 'recorded')::int as answers, count(*) filter (where state = 'in_flight')::int as flying,
       count(*) filter (where downgraded_from is not null)::int as downgraded, coalesce(sum(cost_usd), 0) as cost
  from model_calls where tenant = $1
"""


def provider_options() -> list[str]:
    """The limits that the simulated provider enforces: each model is an account of its own."""
    limits = [f"{model},requests_per_minute={limit},burst_s={BURST_S}" for model, limit in REQUESTS_PER_MINUTE.items()]
    return [part for limit in limits for part in ("--limit", limit)]


def models(base: dict[str, Any]) -> dict[str, Any]:
    """models.yaml of the surge: the same limits on our side, and a tier that goes down when its wait gets long."""
    smart = {"candidates": base["tiers"]["smart"], "downgrade_to": "fast", "downgrade_wait_s": DOWNGRADE_WAIT_S}
    tiers = base["tiers"] | {"smart": smart}
    limited = {
        model: {"limits": {"requests_per_minute": REQUESTS_PER_MINUTE[model.partition(":")[2]], "headroom": HEADROOM}}
        for models in base["tiers"].values()
        for model in models
    }
    return base | {"tiers": tiers, "models": limited}


@dataclass
class SurgePlay:
    """One surge that goes on."""

    tickets: Sequence[Ticket]
    orchestrator: Orchestrator
    house: House
    pool: asyncpg.Pool
    console: Console
    tenant: str = field(default_factory=lambda: f"surge-{secrets.token_hex(3)}")
    began: float = field(default_factory=time.monotonic)
    took_s: dict[str, list[float]] = field(default_factory=lambda: {"urgent": [], "normal": []})
    ended: int = 0
    agreed: int = 0
    """Calls that waited for a yes, and got it."""

    @property
    def total(self) -> int:
        """How many tickets come in."""
        return len(self.tickets) * COPIES

    async def perform(self) -> None:
        """Let all come in, and show how they are served until the last has ended."""
        beside = [asyncio.create_task(self._show()), asyncio.create_task(self._say_yes())]
        try:
            async with asyncio.TaskGroup() as runs:
                for number in range(self.total):
                    runs.create_task(self._serve(number))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    async def _say_yes(self) -> None:
        """Agree to all refunds that wait, in bulk: here it is the limits that are looked at."""
        while True:
            self.agreed += (await self.orchestrator.inbox.decide("approve", by=lead.NAME, tenant=self.tenant)).held
            await asyncio.sleep(LOOK_EVERY_S)

    async def _serve(self, number: int) -> None:
        ticket = self.tickets[number % len(self.tickets)]
        urgency = "urgent" if number % URGENT_EVERY == URGENT_EVERY - 1 else "normal"
        began = time.monotonic()
        run = await self.orchestrator.start(
            ENTRY_AGENT, ticket.as_message(), user=ticket.id, tenant=self.tenant, priority=urgency, idempotency_key=f"{ticket.id}-{number}"
        )
        with contextlib.suppress(Exception):
            await _end(run)
            self.ended += 1
            self.took_s[urgency].append(time.monotonic() - began)

    async def _show(self) -> None:
        next_line = 0.0
        live = Live(console=self.console, refresh_per_second=2, transient=True) if self.console.is_terminal else None
        with live or contextlib.nullcontext():
            while True:
                shown, line = await self._look()
                if live is not None:
                    live.update(shown)
                elif time.monotonic() >= next_line:
                    next_line = time.monotonic() + LINE_EVERY_S
                    self.console.print(line, highlight=False, soft_wrap=True)
                await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> tuple[RenderableType, str]:
        calls = await self.pool.fetchrow(_CALLS, self.tenant)
        report = await self.orchestrator.limits()
        waits = [each.expected_s for each in report.waiting]
        line = (
            f"{time.monotonic() - self.began:5.1f} s  {self.ended} of {self.total} tickets ended, {calls['answers']} answers, "
            f"{calls['flying']} in the air, {len(waits)} wait (the longest about {max(waits, default=0):.0f} s), "
            f"{calls['downgraded']} went down a tier, {calls['cost']:.4f} USD, simulated"
        )
        table = Table(box=None, pad_edge=False)
        for name in ("limit", "allowed", "free now", "waiting"):
            table.add_column(name, justify="left" if name == "limit" else "right")
        for limit in report.limits:
            table.add_row(limit.name, f"{limit.limit:g}", f"{limit.free_now:.1f}", str(limit.waiting))
        return Group(line, table), line

    async def proof(self, control: str) -> dict[str, Any]:
        """What it came to, with the provider's own count of refusals and use."""
        async with aiohttp.ClientSession() as http, http.get(f"{control}/limits") as answer:
            limits = await answer.json()
        calls = await self.pool.fetchrow(_CALLS, self.tenant)
        used = [each["used"] / each["allowed"] for each in limits if each["allowed"]]
        return {
            "tickets": self.total,
            "finished": self.ended,
            "lost": self.total - self.ended,
            "answers": calls["answers"],
            "answers_429": sum(each["refused"] for each in limits),
            "limit_used": round(max(used, default=0.0), 3),
            "downgraded": calls["downgraded"],
            "urgent_p50_s": round(statistics.median(self.took_s["urgent"] or [0.0]), 1),
            "normal_p50_s": round(statistics.median(self.took_s["normal"] or [0.0]), 1),
            "cost_usd": float(Decimal(calls["cost"])),
            "approvals_given": self.agreed,
            "simulated": True,
        }


async def _end(run: Run) -> None:
    """Wait for a run's end, over waits for a yes. Raises RunParkedError when it is parked."""
    async with asyncio.timeout(ENDS_WITHIN_S):
        while True:
            try:
                await run.outcome(raise_when_parked=True)
                return
            except RunParkedError:
                if await run.status() is RunStatus.PARKED:
                    raise
                await asyncio.sleep(LOOK_EVERY_S)


async def play_surge(options: Options, console: Console) -> int:
    """Play it; the last line is one JSON object. 0: nothing was lost and no call was refused; 1: else."""
    shop, tickets = load_shop(options.shop), load_tickets(options.tickets)
    screen = Screen(console, simulated=True)
    screen.say(
        f"{len(tickets)} tickets, each {COPIES} times, on {WORKERS} workers; requests a minute: "
        + ", ".join(f"{model} {limit}" for model, limit in REQUESTS_PER_MINUTE.items())
    )
    folder = Path(tempfile.mkdtemp(prefix="holdfast-surge-"))
    async with open_stack(StackSettings(on_line=screen.say)) as stack, contextlib.AsyncExitStack() as exits:
        await create_shop(stack.database_url, shop)
        house = House(stack, folder, None, f"surge-{secrets.token_hex(3)}", provider_options=provider_options(), models=models)
        exits.push_async_callback(house.close)
        await house.start_provider(options.seed)
        others = [await house.start_worker() for _ in range(WORKERS)][:-1]
        for other in others:
            exits.push_async_callback(other.stop)
        play = await _connected(exits, stack, house, tickets, console)
        await play.perform()
        proof = await play.proof(house.control)
    shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(json.dumps(proof) + "\n")
    return 0 if not proof["lost"] and not proof["answers_429"] else 1


async def _connected(
    exits: contextlib.AsyncExitStack, stack: RunningStack, house: House, tickets: Sequence[Ticket], console: Console
) -> SurgePlay:
    settings = Settings(
        temporal_address=stack.temporal_address,
        namespace=stack.namespace,
        database_url=stack.database_url,
        ui_url=stack.ui_url,
        task_queue=house.task_queue,
    )
    orchestrator = await exits.enter_async_context(Orchestrator.connect(settings))
    pool = await exits.enter_async_context(asyncpg.create_pool(stack.database_url, min_size=1, max_size=3, command_timeout=15))

    async def known() -> bool:
        return ENTRY_AGENT in {agent.name for agent in await orchestrator.agents()}

    await until_agents_are_known(house, known)
    return SurgePlay(tickets, orchestrator, house, pool, console)
