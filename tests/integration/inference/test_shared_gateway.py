"""The gateway with what all workers share: cached answers cost nothing, limits delay, soft lines lower the tier, closed doors go round."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest

from activities.inference import asking
from activities.inference.asking import Answered, Kept, Refused
from activities.inference.breaker_rules import Scopes
from activities.inference.breakers import Breakers
from activities.inference.cache import ResponseCache
from activities.inference.gateway import Gateway, Shared
from activities.inference.limiter import Limiter
from activities.inference.pressure import Pressure
from activities.inference.providers.scripted import Script, ScriptedModel
from activities.inference.routing import Router
from state import model_calls, runs, transcripts
from state.model_calls import Charge
from state.notices import Notices
from state.pool import Database
from state.runs import NewRun
from workflows.contracts.agents import AgentDefinition, Cache, Limits
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.messages import Message, ModelResponse, Role, Usage
from workflows.contracts.steps import ModelCallRequest

PRICE = {"input_usd_per_million": 1, "output_usd_per_million": 1000, "context_window_tokens": 10000}
USAGE = Usage(input_tokens=1_000, output_tokens=10)


def answer(text: str) -> ModelResponse:
    return ModelResponse(model="m", text=text, finish="stop", usage=USAGE)


def keep(answered: Answered) -> Kept:
    told = {"text": answered.response.text, "cached": answered.cached, "downgraded_from": answered.downgraded_from}
    return Kept(told, [transcripts.row(1, Message(role=Role.ASSISTANT, text=answered.response.text))])


class House:
    """One worker's gateway, with everything shared, over two scripted providers; names are this test's own."""

    def __init__(self, database: Database, shared: Shared, mark: str, **settings: Any) -> None:
        self.database = database
        self.shared = shared
        self.mark = mark
        first, second = f"first{mark}", f"second{mark}"
        self.settings = InferenceSettings.model_validate(
            {
                "providers": {name: {"dialect": "openai"} for name in (first, second)},
                "models": {f"{name}:m": PRICE for name in (first, second)},
                "tiers": {"smart": {"candidates": [f"{first}:m", f"{second}:m"]}, "fast": f"{second}:m"},
            }
            | settings
        )
        self.first, self.second = ScriptedModel([], name=first), ScriptedModel([], name=second)
        self.gateway = Gateway(database, Router(self.settings), {}, shared)

    def script(self, first: list[Script], second: list[Script] | None = None) -> None:
        self.first, self.second = ScriptedModel(first, name=self.first.name), ScriptedModel(second or [], name=self.second.name)
        self.gateway.configure(Router(self.settings), {model.name: model for model in (self.first, self.second)})

    async def pay(self, *, cache: Cache | None = None, tenant: str = "acme", model: str = "smart") -> Any:
        run_id = f"shared-{uuid.uuid4().hex[:12]}"
        agent = AgentDefinition(name=f"desk{self.mark}", instructions="Help.", model=model, limits=Limits(cost_usd=Decimal(5)), cache=cache)
        new = NewRun(run_id, tenant + self.mark, agent.name, "hash", None, None, "body", Decimal(5))
        await runs.create(self.database, new, Message(role=Role.USER, text="hello"))
        request = ModelCallRequest(run_id=run_id, step=1, agent=agent.pin(), tenant=tenant + self.mark)
        paid = await self.gateway.pay(request, asking.whole(agent, ()), 1, keep)
        self.charges = await model_calls.charges(self.database, run_id)
        return paid

    @property
    def charge(self) -> Charge:
        """The last call's line in the ledger."""
        return self.charges[-1]


@pytest.fixture
async def shared(database: Database) -> AsyncIterator[Shared]:
    notices = Notices(database)
    async with (
        notices.open(),
        Limiter(database, worker=f"w-{uuid.uuid4().hex[:6]}").open() as limiter,
        Breakers(database, InferenceSettings().breakers, notices=notices) as breakers,
        ResponseCache(database, notices).open() as cache,
    ):
        yield Shared(limiter=limiter, breakers=breakers, cache=cache, pressure=Pressure())


@pytest.fixture
def mark() -> str:
    return uuid.uuid4().hex[:8]


async def test_an_answer_from_the_cache_costs_nothing_and_says_what_it_is(database: Database, shared: Shared, mark: str) -> None:
    house = House(database, shared, mark)
    house.script([answer("the answer")])
    kept_for = Cache(ttl_s=600, scope="tenant")
    assert (await house.pay(cache=kept_for))[0]["cached"] == ""
    assert (await house.pay(cache=kept_for))[0] == {"text": "the answer", "cached": "exact", "downgraded_from": ""}
    assert (house.charge.cost_usd, house.charge.cache, house.charge.state) == (Decimal(0), "exact", "recorded")
    assert len(house.first.requests) == 1
    house.script([answer("another's")])
    assert (await house.pay(cache=kept_for, tenant="other"))[0]["text"] == "another's", "no tenant is given another's answer"


async def test_an_old_answer_is_given_where_nothing_is_open(database: Database, shared: Shared, mark: str) -> None:
    house = House(database, shared, mark)
    house.script([answer("of yesterday")])
    kept_for = Cache(ttl_s=600, scope="tenant")
    await house.pay(cache=kept_for)
    await database.execute("update cached_responses set expires_at = now() - interval '1 minute' where agent = $1", f"desk{mark}")
    assert shared.breakers is not None
    for provider in (house.first.name, house.second.name):
        for _ in range(6):
            shared.breakers.failed(Scopes(provider, "m").names, FailureClass.TRANSIENT, code="unreachable")
    await shared.breakers.flush()
    await shared.breakers.refresh()
    turn, _ = await house.pay(cache=kept_for)
    assert turn == {"text": "of yesterday", "cached": "stale", "downgraded_from": ""}
    with pytest.raises(StepError, match="delayed, every model that could answer is closed") as raised:
        await house.pay()
    assert raised.value.failure_class is FailureClass.THROTTLED
    assert (raised.value.retry_after_s or 0) > 0


async def test_a_closed_provider_is_gone_round(database: Database, shared: Shared, mark: str) -> None:
    house = House(database, shared, mark)
    assert shared.breakers is not None
    for _ in range(6):
        shared.breakers.failed(Scopes(house.first.name, "m").names, FailureClass.TRANSIENT, code="unreachable")
    await shared.breakers.flush()
    await shared.breakers.refresh()
    house.script([], [answer("from the second")])
    assert (await house.pay())[0]["text"] == "from the second"
    assert house.first.requests == []


async def test_a_limit_that_is_used_up_delays_with_the_time_of_the_slot(database: Database, shared: Shared, mark: str) -> None:
    limited = {name: {"dialect": "openai", "limits": {"requests_per_minute": 20}} for name in (f"first{mark}", f"second{mark}")}
    house = House(database, shared, mark, providers=limited)
    house.script([answer("one")] * 20, [answer("two")] * 20)
    texts: list[str] = []
    with pytest.raises(StepError, match=r"delayed, about \d+ s: provider:(first|second)\w+ requests/min") as raised:
        await use_up(house, texts)
    assert set(texts) == {"one", "two"}, "the one with room is taken"
    assert (raised.value.failure_class, raised.value.exact, raised.value.code) == (FailureClass.THROTTLED, True, "own_limit")


async def use_up(house: House, texts: list[str]) -> None:
    """Ask until there is no room left."""
    for _ in range(20):
        turn, _ = await house.pay()
        texts += [turn["text"]]


async def test_a_call_that_no_limit_could_ever_admit_is_refused_at_once(database: Database, shared: Shared, mark: str) -> None:
    limited = {name: {"dialect": "openai", "limits": {"tokens_per_minute": 100}} for name in (f"first{mark}", f"second{mark}")}
    house = House(database, shared, mark, providers=limited)
    house.script([])
    with pytest.raises(StepError, match=r"never admits more than 90 at once") as raised:
        await house.pay()
    assert (raised.value.failure_class, raised.value.code) == (FailureClass.CALLER, "larger_than_limit")


async def test_a_soft_line_lowers_the_tier_and_a_hard_one_refuses(database: Database, shared: Shared, mark: str) -> None:
    tiers = {"smart": {"candidates": [f"first{mark}:m"], "downgrade_to": "fast"}, "fast": f"second{mark}:m"}
    budget = {f"team{mark}": {"scope": "tenant", "period": "day", "calls": 3, "soft": 0.5}}
    house = House(database, shared, mark, tiers=tiers, budgets=budget)
    house.script([answer("one"), answer("two")], [answer("three")])
    assert shared.pressure is not None
    for text in ("one", "two"):
        await shared.pressure.refresh(database)
        assert (await house.pay())[0] == {"text": text, "cached": "", "downgraded_from": ""}
    await shared.pressure.refresh(database)
    assert (await house.pay())[0] == {"text": "three", "cached": "", "downgraded_from": "smart"}
    assert (house.charge.tier, house.charge.downgraded_from) == ("fast", "smart")
    assert "is past 50%" in house.charge.reason
    refused = None
    refused = await house.pay()
    assert isinstance(refused, Refused)
    assert [each.dimension for each in refused.refusals] == ["calls"]
    assert house.charges == []
