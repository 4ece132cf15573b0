"""A model of the books, against PostgreSQL, over several connections at once, in orders that nobody thought of."""

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
from state.model_calls import Begun
from state.pool import Database
from tests.integration.state.ledger import begin, finish, found, new_run, sub_run

FREE = Decimal(0)
STEPS = st.integers(2, 4)
RUNS = st.integers(0, 5)
PARTS = st.sampled_from([Decimal(0), Decimal("0.3"), Decimal(1)])
"""What a call costs, as a part of what was reserved for it."""

BOOKS = """
with counted as (
    select r.run_id,
           coalesce(sum(c.cost_usd) filter (where c.state in ('recorded', 'superseded', 'unknown')), 0) as spent,
           coalesce(sum(c.reserved_usd) filter (where c.state = 'in_flight'), 0) as reserved,
           coalesce(sum(c.cost_usd) filter (where c.state = 'unknown'), 0) as unknown
      from runs r
      left join runs below on below.run_id = r.run_id or r.run_id = any(below.ancestors)
      left join model_calls c on c.run_id = below.run_id
     where r.run_id = any($1) and below.run_id = any($1)
     group by r.run_id
)
select r.run_id, r.spent_usd, c.spent, r.reserved_usd, c.reserved, r.unknown_usd, c.unknown, r.cost_limit_usd
  from runs r join counted c using (run_id)
"""
TWICE = "select run_id, step from model_calls where run_id = any($1) and state = $2 group by 1, 2 having count(*) > 1"


@dataclass(frozen=True)
class Attempt:
    """A model call that has begun, and what may come of it."""

    run_id: str
    step: int
    call_id: int
    reserved_usd: Decimal


Act = tuple[str, int, int, Decimal]


KINDS = st.sampled_from(["begin", "begin", "finish", "fail", "unknown"])
ACTS = st.lists(st.tuples(KINDS, RUNS, STEPS, PARTS), min_size=1, max_size=6)
SETTINGS = settings(
    max_examples=40,
    stateful_step_count=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Books(RuleBasedStateMachine):
    """A run with two sub-runs, one of which has three: whose limits differ, and who all call models at once."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        super().__init__()
        self.runner = runner
        self.database = database
        self.attempts: list[Attempt] = []
        self.answers: dict[tuple[str, int], dict[str, Any]] = {}
        self.runs: list[str] = []

    @initialize(root_usd=st.sampled_from(["0.35", "1.0"]))
    def start(self, root_usd: str) -> None:
        """Found the family; its founding calls are free."""

        async def family() -> list[str]:
            root = await new_run(self.database, root_usd)
            middle, leaf = f"{root}.2", f"{root}.3"
            await found(self.database, root, [sub_run(middle, "0.45"), sub_run(leaf, 9)])
            below = [f"{middle}.{place}" for place in (2, 3, 4)]
            await found(self.database, middle, [sub_run(run_id, "0.25") for run_id in below])
            return [root, middle, leaf, *below]

        self.runs = self.runner.run(family())
        self.limits = dict(zip(self.runs, map(Decimal, (root_usd, "0.45", "9", "0.25", "0.25", "0.25")), strict=True))

    @rule(
        acts=st.lists(
            st.tuples(st.sampled_from(["begin", "begin", "finish", "fail", "unknown"]), RUNS, STEPS, PARTS), min_size=1, max_size=6
        )
    )
    def together(self, acts: list[Act]) -> None:
        """Do these things at the same time, each on a connection of its own."""
        known = list(self.attempts)

        async def do() -> None:
            await asyncio.gather(*(coroutine for act in acts if (coroutine := self.act(act, known)) is not None))

        self.runner.run(do())

    def act(self, act: Act, known: list[Attempt]) -> Coroutine[Any, Any, None] | None:
        """One of the things that may happen."""
        what, who, step, part = act
        if what == "begin":
            return self.begin(self.runs[who], step)
        if not known:
            return None
        attempt = known[(who * 3 + step) % len(known)]
        if what == "finish":
            return self.finish(attempt, part)
        close = model_calls.fail if what == "fail" else model_calls.charge_unknown
        return close(self.database, attempt.call_id, "transient", "it ended")

    async def begin(self, run_id: str, step: int) -> None:
        """A call begins; one whose step has an answer is given that answer and nothing else."""
        answered = self.answers.get((run_id, step))
        begun: Begun = await begin(self.database, run_id, step, cost_usd=self.limits[run_id])
        if answered is not None:
            assert (begun.outcome, begun.turn) == ("recorded", answered)
        if begun.outcome == "go":
            reserved = await self.database.fetchval("select reserved_usd from model_calls where call_id = $1", begun.call_id)
            self.attempts.append(Attempt(run_id, step, begun.call_id, reserved))

    async def finish(self, attempt: Attempt, part: Decimal) -> None:
        """An answer arrives, in time or late; the first of a step is everybody's."""
        failed = await self.database.fetchval("select state = 'failed' from model_calls where call_id = $1", attempt.call_id)
        if failed:
            return
        turn = await finish(self.database, attempt.call_id, attempt.reserved_usd * part, step=attempt.step)
        recorded = await self.database.fetchval(
            "select turn from model_calls where run_id = $1 and step = $2 and state = 'recorded'", attempt.run_id, attempt.step
        )
        if recorded is not None:
            assert turn == recorded == self.answers.setdefault((attempt.run_id, attempt.step), recorded)

    @invariant()
    def the_books_hold(self) -> None:
        """Spent and reserved are the sums of the calls below, within every limit; no step has two answers or two calls in the air."""

        async def check() -> None:
            for row in await self.database.fetch(BOOKS, self.runs):
                assert (row["spent_usd"], row["reserved_usd"], row["unknown_usd"]) == (row["spent"], row["reserved"], row["unknown"])
                assert row["spent_usd"] + row["reserved_usd"] <= row["cost_limit_usd"]
            for state in ("recorded", "in_flight"):
                assert await self.database.fetch(TWICE, self.runs, state) == []

        self.runner.run(check())


def test_the_books_hold_in_any_order(guarded_url: str) -> None:
    with asyncio.Runner() as runner:
        opened = Database.open(guarded_url, min_size=4, max_size=6)
        database = runner.run(opened.__aenter__())
        try:
            run_state_machine_as_test(lambda: Books(runner, database), settings=SETTINGS)
        finally:
            runner.run(opened.__aexit__(None, None, None))
