"""A model of budgets that cross each other, against PostgreSQL, over several connections at once, in orders that nobody thought of."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from state import model_calls
from state.budgets import BudgetLine
from state.pool import Database
from tests.integration.state.ledger import begin, finish, found, new_id, new_run, sub_run
from tests.integration.state.test_budgets import GUARD

RUNS = st.integers(0, 5)
STEPS = st.integers(2, 4)
PARTS = st.sampled_from([Decimal(0), Decimal("0.3"), Decimal(1)])
"""What a call costs, as a part of what was reserved for it."""
KINDS = st.sampled_from(["begin", "begin", "begin", "finish", "finish", "fail", "unknown", "sweep"])
WHOSE = st.integers(1, 7)
"""Which of three budgets a call charges, as bits."""
SETTINGS = settings(
    max_examples=70,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""About 1,000 rounds of up to six acts at once each."""

BOOKS = """
select b.budget, b.spent_usd, b.reserved_usd, b.unknown_usd, b.spent_calls, b.reserved_calls, b.reserved_tokens, b.spent_tokens,
       coalesce(sum(m.cost_usd) filter (where m.state in ('recorded', 'superseded', 'unknown')), 0) as spent,
       coalesce(sum(m.reserved_usd) filter (where m.state = 'in_flight'), 0) as reserved,
       coalesce(sum(m.cost_usd) filter (where m.state = 'unknown'), 0) as unknown,
       count(*) filter (where m.state in ('recorded', 'superseded', 'unknown')) as calls,
       count(*) filter (where m.state = 'in_flight') as in_the_air,
       coalesce(sum(m.reserved_tokens) filter (where m.state = 'in_flight'), 0) as tokens_in_the_air,
       coalesce(sum(case when m.state = 'unknown' then m.reserved_tokens else m.input_tokens + m.output_tokens end)
                filter (where m.state in ('recorded', 'superseded', 'unknown')), 0) as tokens,
       b.soft_since is not null as soft, budget_share(b) as share, b.soft as line
  from budget_periods b left join model_calls m on b.period_id = any(m.budget_periods)
 where b.budget = any($1)
 group by b.period_id
"""


@dataclass(frozen=True)
class Attempt:
    """A model call that has begun, and what may come of it."""

    run_id: str
    step: int
    call_id: int
    reserved_usd: Decimal


Act = tuple[str, int, int, Decimal, int]


class Budgets(RuleBasedStateMachine):
    """Three budgets, and the calls of a family of runs and of three strangers, which charge some of them each."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__()
        self.runner = runner
        self.database = database
        self.attempts: list[Attempt] = []
        self.runs: list[str] = []
        self.lines: list[BudgetLine] = []

    @initialize(usd=st.sampled_from(["0.25", "0.7"]), calls=st.sampled_from([3, 8]))
    def start(self, usd: str, calls: int) -> None:
        """Budgets that nobody has used, and runs with money enough."""

        async def family() -> list[str]:
            root = await new_run(self.database, 100)
            children = [f"{root}.2", f"{root}.3"]
            await found(self.database, root, [sub_run(child, 100) for child in children])
            return [root, *children, *[await new_run(self.database, 100) for _ in range(3)]]

        self.runs = self.runner.run(family())
        name = new_id("budget")
        self.lines = [
            BudgetLine("money", f"{name}:a", "hour", cost_usd=Decimal(usd), calls=1_000, soft=0.5),
            BudgetLine("calls", f"{name}:b", "day", cost_usd=Decimal(9), calls=calls, soft=0.7),
            BudgetLine("both", f"{name}:c", "month", cost_usd=Decimal("1.1"), calls=12),
        ]

    @rule(acts=st.lists(st.tuples(KINDS, RUNS, STEPS, PARTS, WHOSE), min_size=1, max_size=6))
    def together(self, acts: list[Act]) -> None:
        """Do these things at the same time, each on a connection of its own."""
        known = list(self.attempts)

        async def do() -> None:
            await asyncio.gather(*(coroutine for act in acts if (coroutine := self.act(act, known)) is not None))

        self.runner.run(do())

    def act(self, act: Act, known: list[Attempt]) -> Coroutine[Any, Any, Any] | None:
        """One of the things that may happen."""
        what, who, step, part, whose = act
        if what == "begin":
            return self.begin(self.runs[who], step, [line for place, line in enumerate(self.lines) if whose & 1 << place])
        if what == "sweep":
            return model_calls.settle_orphans(self.database, 0)
        if not known:
            return None
        attempt = known[(who * 3 + step) % len(known)]
        if what == "finish":
            return self.finish(attempt, part)
        close = model_calls.fail if what == "fail" else model_calls.charge_unknown
        return close(self.database, attempt.call_id, "transient", "it ended")

    async def begin(self, run_id: str, step: int, lines: list[BudgetLine]) -> None:
        """A call begins, or is refused by a budget of its own."""
        begun = await begin(self.database, run_id, step, cost_usd=100, budgets=tuple(lines))
        assert begun.outcome in ("go", "recorded", "over_budget")
        assert {refusal.budget for refusal in begun.refusals} <= {line.id for line in lines}
        if begun.outcome == "go":
            reserved = await self.database.fetchval("select reserved_usd from model_calls where call_id = $1", begun.call_id)
            self.attempts.append(Attempt(run_id, step, begun.call_id, reserved))

    async def finish(self, attempt: Attempt, part: Decimal) -> None:
        """An answer arrives, in time or late."""
        await finish(self.database, attempt.call_id, attempt.reserved_usd * part, step=attempt.step)

    @invariant()
    def the_budgets_hold(self) -> None:
        """Spent and reserved are the sums of the calls that charge them; the soft line stands where its hysteresis puts it."""

        async def check() -> None:
            for row in await self.database.fetch(BOOKS, [line.id for line in self.lines]):
                assert (row["spent_usd"], row["reserved_usd"], row["unknown_usd"]) == (row["spent"], row["reserved"], row["unknown"])
                assert (row["spent_calls"], row["reserved_calls"]) == (row["calls"], row["in_the_air"])
                assert (row["spent_tokens"], row["reserved_tokens"]) == (row["tokens"], row["tokens_in_the_air"])
                assert row["share"] <= 1
                assert row["soft"] or row["share"] < row["line"]
                assert not row["soft"] or row["share"] >= row["line"] - Decimal("0.1")

        self.runner.run(check())


def test_budgets_hold_in_any_order(guarded_url: str) -> None:
    with asyncio.Runner() as runner:
        opened = Database.open(guarded_url, min_size=4, max_size=6)
        database = runner.run(opened.__aenter__())
        try:
            runner.run(database.execute(GUARD))
            run_state_machine_as_test(lambda: Budgets(runner, database), settings=SETTINGS)
        finally:
            runner.run(opened.__aexit__(None, None, None))
