"""Reads the books that the proof compares: the ledger, the shop's tables, the provider's journal."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg

from examples.support.simulation.conversation import done_before
from workflows.contracts.messages import Message

from .report import REFUND_LIMIT_USD, Attempt, BilledCall, PeopleBooks, ShopChange, ShopRefund

_PROGRESS = """
with family as (
    select run_id, coalesce(ancestors[1], run_id) as root from runs where run_id = any($1) or ancestors && $1
)
select root, coalesce(sum(steps), 0)::int as steps, coalesce(sum(recorded), 0)::int as recorded,
       coalesce(sum(flying), 0)::int as flying, coalesce(sum(tokens), 0)::int as tokens, coalesce(sum(cost), 0) as cost
  from family
  left join lateral (select max(step) as steps from transcript t where t.run_id = family.run_id) t on true
  left join lateral (
      select count(*) filter (where state = 'recorded') as recorded, count(*) filter (where state = 'in_flight') as flying,
             sum(input_tokens + output_tokens) as tokens, sum(cost_usd) as cost
        from model_calls m where m.run_id = family.run_id
  ) m on true
 group by root
"""
_LEDGER = """
select m.run_id, step, state, started_at, finished_at, cost_usd
  from runs r join model_calls m using (run_id)
 where r.run_id = any($1) or r.ancestors && $1
 order by call_id
"""

_STANDING = """
select distinct coalesce(r.ancestors[1], r.run_id) as root, waits
  from (select run_id, true as waits from questions where tenant = $1 and state = 'open'
        union all select run_id, false from dead_letters where tenant = $1 and state = 'open') s
  join runs r using (run_id)
"""
_PEOPLE = """
select (select count(*) from questions where tenant = $1)::int as asked,
       count(*) filter (where order_name = 'approve' and outcome = 'accepted')::int as approved,
       count(*) filter (where order_name = 'reject' and outcome = 'accepted')::int as rejected,
       count(*)::int as audit_rows,
       (select count(*) from dead_letters where tenant = $1)::int as letters_filed,
       (select count(*) from dead_letters where tenant = $1 and state = 'redriven')::int as letters_redriven
  from decisions where tenant = $1
"""
_WITHOUT_A_YES = """
select count(*)::int from shop.refunds f
 where f.amount_usd > $1
   and not exists (select from shop.changes c where c.kind = 'cancelled' and c.idempotency_key = f.idempotency_key)
   and not exists (
       select from questions q join decisions d using (run_id, step)
        where q.run_id = f.run_id and q.tool = 'refund' and q.arguments::json->>'order_id' = f.order_id
          and d.order_name = 'approve' and d.outcome = 'accepted')
"""

_REFUSED = "A person said no"
_WORDS = {
    "cancel_order": "cancelled",
    "refund": "refunded",
    "return_items": "returned",
    "exchange_items": "exchanged",
    "redirect_order": "sent elsewhere",
    "change_address": "account moved",
    "escalate_to_person": "to a person",
}


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run has come, its sub-runs included."""

    steps: int
    model_calls: int
    in_the_air: int
    tokens: int
    cost_usd: Decimal


@dataclass(frozen=True, slots=True)
class Standing:
    """Runs that do not go on by themselves; a sub-run counts for the run above it."""

    waiting: frozenset[str] = frozenset()
    """For a person's yes."""
    parked: frozenset[str] = frozenset()


class Books:
    """Reads the database that holds both Holdfast's tables and the shop's."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def progress(self, run_ids: Sequence[str]) -> dict[str, RunState]:
        """How far each of the runs has come."""
        rows = await self._pool.fetch(_PROGRESS, list(run_ids))
        return {row["root"]: RunState(row["steps"], row["recorded"], row["flying"], row["tokens"], row["cost"]) for row in rows}

    async def standing(self, tenant: str) -> Standing:
        """Which runs wait for people, and which are parked."""
        rows = await self._pool.fetch(_STANDING, tenant)
        return Standing(*(frozenset(row["root"] for row in rows if row["waits"] is waits) for waits in (True, False)))

    async def people(self, tenant: str, *, ordered: int) -> PeopleBooks:
        """What people were asked and have ordered; `ordered` is how many orders they know that they gave."""
        row = await self._pool.fetchrow(_PEOPLE, tenant)
        without = await self._pool.fetchval(_WITHOUT_A_YES, REFUND_LIMIT_USD)
        return PeopleBooks(**dict(row), refunds_without_a_yes=without, ordered=ordered)

    async def ledger(self, run_ids: Sequence[str]) -> tuple[Attempt, ...]:
        """Every attempt of the runs and their sub-runs."""
        rows = await self._pool.fetch(_LEDGER, list(run_ids))
        return tuple(
            Attempt(
                run_id=row["run_id"],
                step=row["step"],
                state=row["state"],
                started_at=row["started_at"].timestamp(),
                finished_at=row["finished_at"].timestamp() if row["finished_at"] else None,
                cost_usd=row["cost_usd"],
            )
            for row in rows
        )

    async def refunds(self) -> tuple[ShopRefund, ...]:
        """Every refund that the shop made."""
        rows = await self._pool.fetch("select order_id, idempotency_key from shop.refunds order by refund_id")
        return tuple(ShopRefund(**row) for row in rows)

    async def changes(self) -> tuple[ShopChange, ...]:
        """Every change that the shop made."""
        rows = await self._pool.fetch("select kind, idempotency_key from shop.changes order by change_id")
        return tuple(ShopChange(**row) for row in rows)

    async def outcomes(self, run_ids: Sequence[str]) -> dict[str, list[str]]:
        """What each run did in the shop, in words, from its transcript."""
        rows = await self._pool.fetch(
            "select run_id, message from transcript where run_id = any($1) order by run_id, step, part", list(run_ids)
        )
        called: dict[tuple[str, str], str] = {}
        done: dict[str, list[str]] = defaultdict(list)
        for run_id, message in ((row["run_id"], Message.model_validate_json(row["message"])) for row in rows):
            called |= {(run_id, call.call_id): call.name for call in message.tool_calls}
            name = called.get((run_id, message.call_id or ""), "")
            if name in _WORDS and not message.is_error:
                done[run_id].append(_in_words(name, message.text))
            elif name in _WORDS and message.text.startswith(_REFUSED):
                done[run_id].append(f"{name} refused by a person")
        return done


def billed_calls(journal: Sequence[dict[str, Any]]) -> tuple[BilledCall, ...]:
    """The calls that the provider charges for, from its journal."""
    return tuple(
        BilledCall(entry["idempotency_key"] or "", entry["received_at"], entry["finished_at"]) for entry in journal if entry["billed"]
    )


def _in_words(tool: str, text: str) -> str:
    before, said = done_before(text)
    try:
        result: dict[str, Any] = json.loads(said)
    except ValueError:
        return _WORDS[tool]
    amount = f"{result['refunded_usd']} USD" if tool == "refund" else ""
    return " ".join(part for part in (result.get("order_id", ""), _WORDS[tool], amount) if part) + (" before" if before else "")
