"""What workers share, asked for by lines of JSON: an order a line on standard input, what came of it on standard output."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any

import structlog

from activities.inference.alerts import Alert, Alerts
from activities.inference.breakers import Breakers
from activities.inference.cache import Lead, ResponseCache
from activities.inference.limiter import Limiter, Slot
from state import model_calls, worker_keys
from state.budgets import BudgetLine
from state.model_calls import Refusal
from state.notices import Notices
from state.pool import Database
from state.response_cache import Hit
from state.worker_keys import KeyRow
from tests.integration.inference.askers import COST_USD, answer, asked, key_of
from tests.integration.inference.breaker_world import SETTINGS
from tests.integration.limits.asking import ask, requests
from tests.integration.state.ledger import plan, request
from workflows.contracts.errors import FailureClass
from workflows.contracts.inference import AlertSettings

SCOPES = ("provider:jumpy", "model:jumpy:m")
DAY = BudgetLine("day", "day", "day", calls=2)


class JumpyWorker:
    """One worker's view of limiter, books, breakers, cache and alerts."""

    def __init__(self, database: Database, name: str, limiter: Limiter, cache: ResponseCache, alerts: Alerts) -> None:
        self.database = database
        self.name = name
        self.limiter = limiter
        self.cache = cache
        self.alerts = alerts
        self.breakers = Breakers(database, SETTINGS, worker=name)

    async def clock(self) -> dict[str, Any]:
        """What this process takes for the time."""
        return {"time": time.time(), "date": datetime.now(UTC).timestamp()}

    async def limit(self, ticket: str) -> dict[str, Any]:
        """A slot of 60 a minute."""
        given = await self.limiter.acquire(ask(ticket, (requests(60.0, "provider:jumpy requests/min"), 1), horizon_s=15.0))
        assert isinstance(given, Slot)
        return {"slot_at": given.lease.slot_at, "delay_s": given.delay_s}

    async def begin(self, run_id: str) -> dict[str, Any]:
        """A call under a budget of two a day."""
        begun = await model_calls.begin(self.database, request(run_id), plan(budgets=(DAY,)))
        refusal: Refusal | None = next(iter(begun.refusals), None)
        return {"outcome": begun.outcome, "turns_in_s": refusal.turns_in_s if refusal else None}

    async def fail(self) -> dict[str, Any]:
        """Three calls that do not reach their provider."""
        for _ in range(3):
            self.breakers.failed(SCOPES, FailureClass.TRANSIENT, code="unreachable")
        await self.breakers.flush()
        return {}

    async def standing(self) -> dict[str, Any]:
        """How the breaker stands."""
        await self.breakers.refresh()
        found = self.breakers.standing(SCOPES)
        return {"state": found.state, "wait_s": found.wait_s}

    async def probe(self) -> dict[str, Any]:
        """Whether this worker may send the one probe."""
        return {"claimed": await self.breakers.claim_probe(*SCOPES)}

    async def look(self, question: str) -> dict[str, Any]:
        """What the cache says; who leads answers at the order `keep`."""
        found = await self.cache.look(key_of(asked(question), agent="jumpy"))
        self.lead = found if isinstance(found, Lead) else None
        return {"found": type(found).__name__, "age_s": found.age_s if isinstance(found, Hit) else None}

    async def keep(self) -> dict[str, Any]:
        """The leader's answer is there."""
        assert self.lead is not None
        return {"kept": await self.cache.keep(self.lead, answer(), COST_USD)}

    async def alert(self) -> dict[str, Any]:
        """An alert, which one of the workers gives."""
        return {"period": await self.alerts._claimed(Alert(kind="budget_soft", subject="jumpy"))}

    async def keys(self) -> dict[str, Any]:
        """Tell of a key, and read whose keys live."""
        await worker_keys.tell(self.database, self.name, [KeyRow("jumpy", "main", "MAIN_KEY", None)])
        return {"live": sorted(each.worker for each in await worker_keys.live(self.database))}


async def serve(dsn: str, name: str, clock: ModuleType) -> None:
    """Do what is ordered until there are no orders any more."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    async with Database.open(dsn, max_size=4) as database:
        notices = Notices(database)
        async with (
            notices.open(),
            Limiter(database, worker=name).open() as limiter,
            ResponseCache(database, notices, worker=name).open() as cache,
            Alerts(database, AlertSettings).open() as alerts,
        ):
            worker = JumpyWorker(database, name, limiter, cache, alerts)
            while line := await asyncio.to_thread(sys.stdin.readline):
                what, *given = json.loads(line)
                if what == "jump":
                    clock.jump(float(given[0]))
                    found: dict[str, Any] = {}
                else:
                    found = await getattr(worker, what)(*given)
                print(json.dumps(found, default=lambda value: str(value) if isinstance(value, Decimal) else value), flush=True)
