"""The people of the kill tests: they decide what waits and redrive what is parked, by plain signals, also wrong, twice and late ones."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from temporalio.client import Client
from temporalio.service import RPCError

LOOK_EVERY_S = 0.25
GIVEN_UP_SHARE = 0.15
"""Of the dead letters; their runs are aborted, and what they did is undone."""
GIVE_UP_AFTER = 6
"""How often a letter of one run is redriven before the run is aborted, its effects undone."""


@dataclass
class People:
    """Two people and the record of what they sent."""

    temporal: Client
    database: asyncpg.Pool
    seed: int
    sent: Counter[str] = field(default_factory=Counter)
    """Run → signals that Temporal took."""
    unknown_outcomes: set[tuple[str, int]] = field(default_factory=set)
    _decided: set[tuple[str, int, int]] = field(default_factory=set)
    _redriven: Counter[str] = field(default_factory=Counter)
    _letters: set[tuple[str, int]] = field(default_factory=set)

    async def work(self) -> None:
        """Decide, as long as they are not cancelled."""
        while True:
            with contextlib.suppress(asyncpg.PostgresError, OSError, RPCError):
                await self._decide()
                await self._redrive()
            await asyncio.sleep(LOOK_EVERY_S)

    async def _decide(self) -> None:
        for asked in await self.database.fetch("select * from questions where state = 'open' order by since"):
            key = (asked["run_id"], asked["step"], asked["asked"])
            if key in self._decided:
                continue
            self._decided.add(key)
            chance = random.Random(f"{self.seed}:{key}")
            run, call = asked["run_id"], asked["call_id"]
            if chance.random() < 0.15:
                await self._send(run, chance.choice(("aprove", "approve")), {"call_id": 7})
            if asked["kind"] == "question":
                await self._send(run, "answer", {"call_id": call, "answer": chance.choice(("yes", "no")), "by": "ann"})
            elif chance.random() < 0.2:
                await self._send(run, "reject", {"call_id": call, "reason": "not this one", "by": "ann"})
            elif chance.random() < 0.2:
                edited = {"order": f"edited-{run[-6:]}-{asked['step']}", "amount": 55}
                await self._send(run, "edit", {"call_id": call, "arguments": edited, "by": "ann"})
                await self._send(run, "approve", {"call_id": call, "by": "bob"})
            else:
                for by in ("ann", "bob", chance.choice(("ann", "bob"))):
                    await self._send(run, "approve", {"call_id": call, "by": by})

    async def _redrive(self) -> None:
        for letter in await self.database.fetch("select * from dead_letters where state = 'open' order by parked_at"):
            key = (letter["run_id"], letter["letter"])
            if letter["failure_class"] == "unknown_outcome":
                self.unknown_outcomes.add(key)
            if key in self._letters:
                continue
            self._letters.add(key)
            self._redriven[letter["run_id"]] += 1
            order: dict[str, Any] = {"letter": letter["letter"], "by": "ann"}
            given_up = random.Random(f"{self.seed}:{key}").random() < GIVEN_UP_SHARE and not letter["what"].startswith("undo ")
            if given_up or self._redriven[letter["run_id"]] > GIVE_UP_AFTER:
                order |= {"action": "abort", "undo": True}
            elif letter["failure_class"] == "unknown_outcome":
                order["action"] = await self._found_out(letter)
            await self._send(letter["run_id"], "redrive", order)

    async def _found_out(self, letter: asyncpg.Record) -> str:
        """What a person finds out on the other side: whether the effect of the step was done."""
        tool, step = letter["what"].rpartition(" ")[2], letter["step"]
        keys = await self.database.fetch(
            "select key from effects where state in ('unknown', 'started') and tool in ($1, $1 || '.undo') "
            "and ((run_id = $2 and step = $3) or questions ? ($2 || ':' || $3::text))",
            tool,
            letter["run_id"],
            step,
        )
        named = [row["key"] for row in keys] or [f"{letter['run_id']}:{step}"]
        done = await self.database.fetchval(
            "select exists (select from done d, unnest($1::text[]) k where d.idempotency_key like '%' || k || '%')", named
        )
        return "skip" if done else random.Random(f"{self.seed}:{letter['run_id']}:{step}").choice(("retry", "retry", "not_done"))

    async def _send(self, run: str, signal: str, order: dict[str, Any]) -> None:
        try:
            await self.temporal.get_workflow_handle(run).signal(signal, order)
        except RPCError:
            return
        self.sent[run] += 1
