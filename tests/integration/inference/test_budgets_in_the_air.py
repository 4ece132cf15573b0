"""Room that calls in the air have only reserved: nobody is refused for it, and nothing is passed by waiting for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from activities.inference import asking, budget_waits
from activities.inference.asking import Asked, Refused
from activities.inference.gateway import Gateway
from activities.inference.providers.scripted import ScriptedModel
from activities.inference.routing import Router
from state import budgets, runs
from state.pool import Database
from tests.integration.inference.test_budgets_at_work import keep, settings
from tests.integration.state.ledger import found as founded
from tests.integration.state.ledger import new_run, sub_run
from workflows.contracts.agents import AgentDefinition, Limits
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.messages import ModelRequest, ModelResponse, Usage
from workflows.contracts.steps import ModelCallRequest

OUTPUT_TOKENS = 16
WORST_USD = Decimal("0.0161")
"""16 tokens of output at 1,000 USD a million, and a little input."""
WATCH = """alter table budget_periods
    add constraint never_over_budget check (spent_usd + reserved_usd <= cost_limit_usd and spent_calls + reserved_calls <= call_limit)"""


@dataclass
class House:
    """A gateway to a model that answers when it is let, and how often a step was sent away."""

    database: Database
    settings: InferenceSettings
    output_tokens: int
    let: asyncio.Event = field(default_factory=asyncio.Event)
    delays: list[StepError] = field(default_factory=list)
    delayed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        agent = AgentDefinition(name="support", instructions="Help.", max_output_tokens=OUTPUT_TOKENS, limits=Limits(cost_usd=Decimal(5)))
        self.asked: Asked = asking.whole(agent, ())
        self.pinned = agent.pin()
        self.model = ScriptedModel([self.answer] * 64, name="own")
        self.gateway = Gateway(self.database, Router(self.settings), {"own": self.model})

    async def answer(self, _request: ModelRequest) -> ModelResponse:
        await self.let.wait()
        return ModelResponse(model="m", text="yes", finish="stop", usage=Usage(input_tokens=10, output_tokens=self.output_tokens))

    async def pay(self, run_id: str, attempt: int = 1) -> Any:
        limit = (await runs.books(self.database, run_id)).cost_limit_usd
        pinned = self.pinned.model_copy(update={"limits": Limits(cost_usd=limit)})
        return await self.gateway.pay(ModelCallRequest(run_id=run_id, step=1, agent=pinned, tenant="default"), self.asked, attempt, keep)

    async def persist(self, run_id: str) -> Any:
        """Pay as an activity does that Temporal retries."""
        for attempt in range(1, 100):
            try:
                return await self.pay(run_id, attempt)
            except StepError as error:
                async with self.delayed:
                    self.delays.append(error)
                    self.delayed.notify_all()
                await asyncio.sleep(error.retry_after_s or 0.0)
        raise AssertionError("it went on for ever")

    async def until_delayed(self, times: int) -> None:
        async with asyncio.timeout(30), self.delayed:
            await self.delayed.wait_for(lambda: len(self.delays) >= times)


async def all_of(house: House, run_ids: Sequence[str], *, sent_away: int) -> tuple[int, int]:
    """Let all ask at once, and the model answer when so many were sent away: how many went, and how many were refused."""
    asking_now = [asyncio.create_task(house.persist(run_id)) for run_id in run_ids]
    await house.until_delayed(sent_away)
    house.let.set()
    async with asyncio.timeout(60):
        paid = await asyncio.gather(*asking_now)
    refused = sum(isinstance(each, Refused) for each in paid)
    return len(paid) - refused, refused


async def test_calls_wait_for_what_others_have_only_reserved_and_all_of_them_go(guarded: Database) -> None:
    await guarded.execute(WATCH)
    house = House(guarded, settings(cost_usd=3 * WORST_USD, calls=100), output_tokens=1)
    run_ids = [await new_run(guarded, 5) for _ in range(24)]
    assert await all_of(house, run_ids, sent_away=21) == (24, 0), "all answers together cost half of it"
    assert {(error.failure_class, error.code, error.exact, error.wakeable) for error in house.delays} == {
        (FailureClass.THROTTLED, "budget_in_the_air", True, False)
    }
    assert str(house.delays[0]).endswith("what is left of budget day:default (cost_usd) is reserved by calls in the air")
    (now,) = await budgets.current(guarded)
    assert (now.spent_usd, now.reserved_usd) == (24 * Decimal("0.00101"), 0)
    assert await guarded.fetchval("select count(*) from budget_waits") == 0


@pytest.mark.parametrize("limits", [{"cost_usd": 10 * WORST_USD, "calls": 100}, {"calls": 10}], ids=["money", "calls"])
async def test_of_64_at_once_on_a_budget_for_10_exactly_10_go_and_the_others_are_refused_when_it_is_spent(
    guarded: Database, limits: dict[str, Any]
) -> None:
    await guarded.execute(WATCH)
    house = House(guarded, settings(**limits), output_tokens=OUTPUT_TOKENS)
    run_ids = [await new_run(guarded, 5) for _ in range(64)]
    assert await all_of(house, run_ids, sent_away=54) == (10, 54)
    assert len(house.model.requests) == 10


async def test_room_that_is_never_given_back_is_waited_for_as_long_as_a_call_may_be_in_the_air(guarded: Database) -> None:
    house = House(guarded, settings(calls=1), output_tokens=1)
    first, second = await new_run(guarded, 5), await new_run(guarded, 5)
    holding = asyncio.create_task(house.persist(first))
    async with asyncio.timeout(30):
        while not house.model.requests:  # noqa: ASYNC110 - the model tells nobody
            await asyncio.sleep(0.01)
    with pytest.raises(StepError, match="is reserved by calls in the air"):
        await house.pay(second)
    waited = "update budget_waits set since = since - make_interval(secs => $1)"
    await guarded.execute(waited, budget_waits.IN_THE_AIR_S / 2)
    with pytest.raises(StepError) as later:
        await house.pay(second, 2)
    assert 7.5 <= (later.value.retry_after_s or 0) <= 15, "it looks less often by now"
    await guarded.execute(waited, budget_waits.IN_THE_AIR_S)
    refused = await house.pay(second, 3)
    assert isinstance(refused, Refused)
    assert [each.in_the_air for each in refused.refusals] == [True]
    with pytest.raises(StepError, match="is reserved by calls in the air"):
        await house.pay(second)  # after a redrive it waits anew
    house.let.set()
    await holding


async def test_a_sub_run_waits_for_its_siblings_reservation_of_their_callers_money(guarded: Database) -> None:
    house = House(guarded, InferenceSettings.model_validate(settings(calls=100)), output_tokens=1)
    root = await new_run(guarded, WORST_USD * 3 / 2)
    children = [f"{root}.2", f"{root}.3"]
    await founded(guarded, root, [sub_run(child, 1) for child in children])
    assert await all_of(house, children, sent_away=1) == (2, 0)
    assert f"what is left of the money of run {root} (cost_usd)" in str(house.delays[0])
