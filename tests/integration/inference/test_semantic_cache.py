"""Answers found by meaning: what is near enough is given again and says so, all else is asked, and nothing here can fail a call."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from activities.inference import asking
from activities.inference.asking import Answered, Kept
from activities.inference.cache import ResponseCache
from activities.inference.gateway import Gateway, Shared
from activities.inference.limiter import Limiter
from activities.inference.providers.openai_chat import OpenAIChat
from activities.inference.routing import Router
from activities.inference.semantic import OFF, SemanticCache
from client.cache import CacheControl
from client.steps import read_steps
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import SimulatedProvider, simulated_provider
from state import costs, meanings, model_calls, runs, transcripts
from state.costs import Selected
from state.model_calls import Charge
from state.notices import Notices
from state.pool import Database
from state.runs import NewRun
from tests.integration.inference.test_cache_control import control
from workflows.contracts.agents import AgentDefinition, Cache, Limits
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.messages import Message, Role, ToolCall
from workflows.contracts.steps import ModelCallRequest

EMBEDDINGS = "text-embedding-3-small"
EMBEDDING_USD = Decimal("0.02") / 1_000_000
ASKED = "How long does the delivery take to Austria?"
NEAR = "How long does delivery take to Austria?"
FAR = "Can I pay by invoice, please?"
KEPT_FOR = Cache(ttl_s=600, scope="agent", tags=("shop",))


def policy(request: SimulatedRequest) -> SimulatedAnswer:
    return SimulatedAnswer(text=f"Answer {len(request.messages)} to: {request.messages[-1].text}")


def keep(answered: Answered) -> Kept:
    cost_usd = answered.price.cost_usd + answered.aside_usd
    told = {"text": answered.response.text, "cached": answered.cached, "cost_usd": str(cost_usd), "simulated": answered.response.simulated}
    return Kept(told, [transcripts.row(1, Message(role=Role.ASSISTANT, text=answered.response.text))])


class House:
    """One worker's gateway to the simulated provider, through the real SDK."""

    def __init__(self, database: Database, shared: Shared, simulated: SimulatedProvider, **settings: Any) -> None:
        self.database = database
        self.shared = shared
        self.simulated = simulated
        self.mark = uuid.uuid4().hex[:8]
        self.provider = OpenAIChat.connect(f"sim{self.mark}", SecretStr("sk-test-1234"), simulated.openai_url)
        self.settings = InferenceSettings.model_validate(
            {
                "providers": {self.provider.name: {"dialect": "openai"}},
                "tiers": {"smart": f"{self.provider.name}:gpt-5"},
                "cache": {"semantic": {"model": f"{self.provider.name}:{EMBEDDINGS}", "min_similarity": 0.85}},
            }
            | settings
        )
        self.gateway = Gateway(database, Router(self.settings), {self.provider.name: self.provider}, shared)
        self.turn: dict[str, Any] = {}
        self.run_id = ""

    async def ask(self, *said: str | Message, tenant: str = "acme", user: str | None = None, **fields: Any) -> dict[str, Any]:
        """What a new run of the agent is answered."""
        self.run_id = f"meant-{uuid.uuid4().hex[:12]}"
        limits = Limits(cost_usd=fields.pop("cost_usd", Decimal(5)))
        agent = AgentDefinition(
            **{"name": f"desk{self.mark}", "instructions": "Help.", "model": "smart", "limits": limits, "cache": KEPT_FOR} | fields
        )
        messages = [Message(role=Role.USER, text=each) if isinstance(each, str) else each for each in said]
        new = NewRun(self.run_id, tenant + self.mark, agent.name, "hash", user, None, "body", limits.cost_usd)
        await runs.create(self.database, new, messages[0])
        async with self.database.transaction() as connection:
            for step, message in enumerate(messages[1:], start=1):
                await connection.execute(
                    "insert into transcript (run_id, step, agent, message, tokens) values ($1,$2,$3,$4,10)",
                    *(self.run_id, step, agent.name, transcripts.as_json(message)),
                )
        self.request = ModelCallRequest(run_id=self.run_id, step=len(messages), agent=agent.pin(), tenant=tenant + self.mark, user=user)
        self.agent = agent
        return await self.ask_again(1)

    async def ask_again(self, attempt: int = 2) -> dict[str, Any]:
        """What another attempt of the same step is answered."""
        paid = await self.gateway.pay(self.request, asking.whole(self.agent, ()), attempt, keep)
        assert isinstance(paid, tuple), paid
        self.turn = paid[0]
        return self.turn

    def calls(self, model: str) -> int:
        """How often the provider was asked."""
        return sum(entry.model == model for entry in self.simulated.journal())

    async def charge(self) -> Charge:
        """The embedding of the last run's question, as the ledger has it."""
        (found,) = [each for each in await model_calls.charges(self.database, self.run_id) if each.step < 0]
        return found


@pytest.fixture
async def simulated() -> AsyncIterator[SimulatedProvider]:
    async with simulated_provider(policy) as opened:
        yield opened


class Opened:
    """What the tests switch."""

    def __init__(self) -> None:
        self.settings = InferenceSettings()


@pytest.fixture
def opened() -> Opened:
    return Opened()


@pytest.fixture
async def shared(database: Database, opened: Opened) -> AsyncIterator[Shared]:
    notices = Notices(database)
    async with (
        notices.open(),
        Limiter(database, worker=f"w-{uuid.uuid4().hex[:6]}").open() as limiter,
        ResponseCache(database, notices).open() as cache,
    ):
        yield Shared(limiter=limiter, cache=cache, semantic=SemanticCache(database, lambda: opened.settings.cache))


@pytest.fixture
async def house(database: Database, shared: Shared, simulated: SimulatedProvider, opened: Opened) -> AsyncIterator[House]:
    async with house_of(database, shared, simulated, opened) as found:
        yield found


class house_of:  # noqa: N801 - used like a function
    """A house with other settings, open for a block."""

    def __init__(self, database: Database, shared: Shared, simulated: SimulatedProvider, opened: Opened, **settings: Any) -> None:
        self.house = House(database, shared, simulated, **settings)
        opened.settings = self.house.settings
        assert shared.semantic is not None
        self.open = shared.semantic.open()

    async def __aenter__(self) -> House:
        await self.open.__aenter__()
        return self.house

    async def __aexit__(self, *raised: Any) -> None:
        await self.open.__aexit__(*raised)
        await self.house.provider.aclose()


async def test_a_question_that_means_the_same_gets_the_answer_and_costs_its_embedding_alone(house: House) -> None:
    first = await house.ask(ASKED)
    assert first["cached"] == ""
    turn = await house.ask(NEAR)
    assert (turn["cached"], turn["text"], turn["simulated"]) == ("semantic", first["text"], True)
    assert (house.calls("gpt-5"), house.calls(EMBEDDINGS)) == (1, 2)
    journalled = [entry.usage for entry in house.simulated.journal() if entry.model == EMBEDDINGS][-1]
    assert journalled is not None
    charge = await house.charge()
    assert charge.cost_usd == journalled.input_tokens * EMBEDDING_USD == Decimal(turn["cost_usd"])
    assert (charge.state, charge.step, charge.simulated) == ("recorded", -1, True)
    spent = await house.database.fetchrow("select spent_usd, reserved_usd from runs where run_id = $1", house.run_id)
    assert spent is not None
    assert tuple(spent) == (charge.cost_usd, Decimal(0))


async def test_the_hit_tells_how_near_it_was_and_to_which_question_in_the_run_and_in_the_cache(house: House) -> None:
    await house.ask(ASKED)
    await house.ask(NEAR)
    (step,) = [step for step in await read_steps(house.database, house.run_id) if step.kind == "model"]
    assert step.cached == "semantic"
    assert step.similarity is not None
    assert 0.85 <= step.similarity < 1
    charge = await house.charge()
    assert step.cost_usd == charge.cost_usd > 0
    told: CacheControl = control(house.database)
    alias, original = await told.list(agent=house.agent.name)
    assert {alias.kind, original.kind} == {"semantic", "exact"}
    if alias.kind == "exact":
        alias, original = original, alias
    assert (alias.origin, step.origin) == (original.key, original.key)
    assert alias.similarity == pytest.approx(step.similarity, abs=1e-4)


async def test_hits_by_meaning_are_counted_apart_and_are_no_misses(
    database: Database, simulated: SimulatedProvider, opened: Opened
) -> None:
    notices = Notices(database)
    async with notices.open(), ResponseCache(database, notices).open() as cache:
        shared = Shared(cache=cache, semantic=SemanticCache(database, lambda: opened.settings.cache))
        async with house_of(database, shared, simulated, opened) as house:
            await house.ask(ASKED)
            await house.ask(NEAR)
    told = next(each for each in (await control(database).stats()).agents if each.agent == house.agent.name)
    assert (told.exact, told.semantic, told.missed, told.entries) == (0, 1, 1, 2)
    assert told.saved_usd > 0


async def test_what_was_found_by_meaning_is_found_at_once_the_next_time_and_is_no_origin_itself(house: House) -> None:
    first = await house.ask(ASKED)
    await house.ask(NEAR)
    turn = await house.ask(NEAR)
    assert (turn["cached"], turn["text"], turn["cost_usd"]) == ("semantic", first["text"], "0")
    assert house.calls(EMBEDDINGS) == 2
    await house.ask("How long does delivery take to austria")
    origins = {each.origin for each in await control(house.database).list(agent=house.agent.name)} - {None}
    assert len(origins) == 1, "all of them are the first question's"


@pytest.mark.parametrize(
    ("said", "options"),
    [
        ((FAR,), {}),
        (("How long does the delivery take to Austria? Order 17",), {}),
        ((NEAR,), {"tenant": "other"}),
        ((NEAR,), {"instructions": "Help, and be short."}),
        ((NEAR,), {"output_schema": {"type": "object"}}),
        (("I have another question.", Message(role=Role.ASSISTANT, text="Yes?"), NEAR), {}),
    ],
    ids=["far", "another number", "another tenant", "other instructions", "another schema", "another conversation"],
)
async def test_what_is_not_the_same_around_the_question_or_not_near_enough_is_asked(
    house: House, said: tuple[Any, ...], options: dict[str, Any]
) -> None:
    await house.ask(ASKED)
    turn = await house.ask(*said, **options)
    assert (turn["cached"], house.calls("gpt-5")) == ("", 2)


async def test_tenants_that_share_exact_answers_do_not_share_what_only_means_the_same(house: House) -> None:
    for_all = Cache(ttl_s=600, scope="all")
    await house.ask(ASKED, cache=for_all)
    assert (await house.ask(ASKED, cache=for_all, tenant="other"))["cached"] == "exact"
    assert (await house.ask(NEAR, cache=for_all, tenant="other"))["cached"] == ""
    assert (await house.ask("how long does the delivery take to austria", cache=for_all))["cached"] == "semantic"


async def test_after_a_tools_result_nothing_is_compared_by_meaning(house: House) -> None:
    call = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(call_id="c1", name="look", arguments="{}"),))
    result = Message(role=Role.TOOL, call_id="c1", text="three days")
    await house.ask(ASKED, call, result)
    assert house.calls(EMBEDDINGS) == 0
    assert (await house.ask(NEAR, call, result))["cached"] == ""


async def test_the_same_request_goes_first_and_is_not_embedded(house: House) -> None:
    await house.ask(ASKED)
    assert (await house.ask(ASKED))["cached"] == "exact"
    assert house.calls(EMBEDDINGS) == 1


async def test_thrown_away_answers_are_not_found_by_meaning_and_take_along_what_was_found_by_them(house: House) -> None:
    await house.ask(ASKED)
    await house.ask(NEAR)
    first = next(each for each in await control(house.database).list(agent=house.agent.name) if each.kind == "exact")
    await control(house.database).invalidate(key=first.key)
    assert await control(house.database).list(agent=house.agent.name) == ()
    assert (await house.ask(NEAR))["cached"] == ""
    assert house.calls(EMBEDDINGS) == 2, "an embedding that was paid for stays good"


@pytest.mark.parametrize("kind", [FaultKind.SERVER_ERROR, FaultKind.BAD_KEY, FaultKind.QUOTA, FaultKind.NOT_FOUND])
async def test_an_embedding_that_fails_fails_no_call(house: House, kind: FaultKind) -> None:
    house.simulated.add_fault(Fault(kind=kind, name="no-embedding", model=EMBEDDINGS))
    turn = await house.ask(ASKED)
    assert (turn["cached"], Decimal(turn["cost_usd"]) > 0, house.simulated.fired("no-embedding")) == ("", True, 1)
    assert (await house.charge()).state == "failed"


async def test_an_embedding_that_takes_too_long_is_charged_as_reserved_and_not_waited_for(
    database: Database, shared: Shared, simulated: SimulatedProvider, opened: Opened
) -> None:
    simulated.latency[EMBEDDINGS] = Latency(first_token_s=60)
    async with house_of(database, shared, simulated, opened) as house:
        semantic = {"model": f"{house.provider.name}:{EMBEDDINGS}", "timeout_s": 0.2}
        opened.settings = house.settings.model_copy(update={"cache": type(house.settings.cache).model_validate({"semantic": semantic})})
        turn = await house.ask(ASKED)
        charge = await house.charge()
    assert turn["cached"] == ""
    assert (charge.state, charge.failure_class) == ("unknown", "transient")
    answer_usd = next(each.cost_usd for each in await model_calls.charges(database, house.run_id) if each.step > 0)
    assert Decimal(turn["cost_usd"]) == charge.cost_usd + answer_usd


async def test_the_embedding_keeps_to_the_limits_and_goes_without_where_it_would_wait(
    database: Database, shared: Shared, simulated: SimulatedProvider, opened: Opened
) -> None:
    async with house_of(database, shared, simulated, opened) as house:
        model = f"{house.provider.name}:{EMBEDDINGS}"
        settings = house.settings.model_copy(
            update={"models": type(house.settings).model_validate({"models": {model: {"limits": {"requests_per_minute": 10}}}}).models}
        )
        house.gateway.configure(Router(settings), {house.provider.name: house.provider})
        turns = [await house.ask(f"Tell me of {word}.") for word in ("apples", "bread", "coffee", "dates")]
    assert [turn["cached"] for turn in turns] == [""] * 4
    assert (house.calls("gpt-5"), house.calls(EMBEDDINGS)) == (4, 1)
    left = await database.fetchval("select count(*) from limit_lines where bucket like $1", f"%{house.provider.name}%")
    assert left == 0, "who will not come again stands in nobody's way"


async def test_the_embedding_is_kept_within_the_budgets(
    database: Database, shared: Shared, simulated: SimulatedProvider, opened: Opened
) -> None:
    budgets = {"own": {"scope": "global", "period": "month", "calls": 1}}
    async with house_of(database, shared, simulated, opened) as house:
        mine = {f"own{house.mark}": budgets["own"]}
        settings = house.settings.model_copy(update={"budgets": InferenceSettings.model_validate({"budgets": mine}).budgets})
        house.gateway.configure(Router(settings), {house.provider.name: house.provider})
        with pytest.raises(AssertionError, match="over_budget"):
            await house.ask(ASKED)
    assert (house.calls("gpt-5"), house.calls(EMBEDDINGS)) == (0, 1), "the embedding was the one call of the month"


async def test_a_second_attempt_pays_for_no_second_embedding(house: House) -> None:
    house.simulated.add_fault(Fault(kind=FaultKind.SERVER_ERROR, name="down", model="gpt-5", count=1))
    with pytest.raises(Exception, match="had an error"):
        await house.ask(ASKED)
    turn = await house.ask_again()
    assert (house.calls("gpt-5"), house.calls(EMBEDDINGS)) == (2, 1)
    charge = await house.charge()
    charges = await model_calls.charges(house.database, house.run_id)
    whole_usd = sum((each.cost_usd for each in charges), Decimal(0))
    assert Decimal(turn["cost_usd"]) == whole_usd > charge.cost_usd > 0, "the step's cost holds what its first attempt paid"
    (line,) = await costs.lines(house.database, ["step"], Selected(run=house.run_id))
    assert (line.by, line.calls, line.cost_usd) == (("1",), 1, whole_usd)


NO_VECTOR = """
create function no_vector() returns event_trigger language plpgsql as
$$ begin raise exception 'extension "vector" is not available' using errcode = 'feature_not_supported'; end $$;
create event trigger no_vector on ddl_command_start when tag in ('CREATE EXTENSION') execute function no_vector()
"""
REFUSALS = {
    "not allowed": ("", "let its owner or a superuser run `create extension vector`"),
    "not there": (NO_VECTOR, r"install the extension `vector` \(pgvector 0.8 or later\)"),
}


class AlertBook:
    """Alerts that were given, in order."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []

    def raise_(self, kind: str, subject: str, **fields: Any) -> None:
        """Write it down."""
        self.given.append((kind, fields["problem"]))


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_database_that_cannot_compare_meanings_is_told_of_once_and_calls_go_on_until_it_can(
    guarded_url: str, guarded: Database, simulated: SimulatedProvider, refusal: str
) -> None:
    prepared, remedy = REFUSALS[refusal]
    role, url = f"role_{uuid.uuid4().hex[:8]}", guarded_url
    if prepared:
        await guarded.execute(prepared)
    else:
        await guarded.execute(
            f"create role {role}; grant all on schema public to {role}; grant all on all tables in schema public to {role}"
        )
        url += f"&role={role}"
    alerts, notices, opened = AlertBook(), Notices(guarded), Opened()
    async with Database.open(url) as database, notices.open(), ResponseCache(database, notices).open() as cache:
        semantic = SemanticCache(database, lambda: opened.settings.cache, alerts)
        async with house_of(database, Shared(cache=cache, semantic=semantic), simulated, opened) as house:
            assert semantic.problem is not None
            assert re.search(remedy, semantic.problem)
            assert semantic.problem.startswith("cache.semantic: ")
            await semantic.refresh()
            assert (await house.ask(ASKED))["cached"] == ""
            assert (await house.ask(ASKED))["cached"] == "exact"
            assert (await house.ask(NEAR))["cached"] == ""
            assert house.calls(EMBEDDINGS) == 0
            assert alerts.given == [(OFF, semantic.problem)]
            await guarded.execute("drop event trigger if exists no_vector; create extension vector")
            await semantic.refresh()
            assert semantic.problem is None
            assert (await house.ask(ASKED + " Please."))["cached"] == ""
            assert house.calls(EMBEDDINGS) == 1
    if not prepared:
        await guarded.execute(f"drop owned by {role} cascade; drop role {role}")


async def test_vectors_are_as_long_as_the_settings_ask_and_have_an_index_of_their_length(
    database: Database, shared: Shared, simulated: SimulatedProvider, opened: Opened
) -> None:
    async with house_of(database, shared, simulated, opened) as house:
        cache = {"semantic": {"model": f"{house.provider.name}:{EMBEDDINGS}", "dimensions": 64}}
        opened.settings = InferenceSettings.model_validate({"cache": cache})
        assert (await house.ask(ASKED))["cached"] == ""
    made = await database.fetch(
        "select distinct m.dimensions from cached_meanings m join cached_responses c using (key) where c.agent = $1", house.agent.name
    )
    assert [row["dimensions"] for row in made] == [64]
    indexes = await database.fetchval("select to_regclass('cached_meanings_near_64') is not null")
    assert indexes


async def test_embeddings_that_no_answer_needs_are_forgotten(house: House) -> None:
    await house.ask(ASKED)
    await house.ask(FAR)
    first = (await control(house.database).list(agent=house.agent.name))[-1]
    await house.database.execute("delete from cached_responses where key = $1", first.key)
    await house.database.execute("update cached_meanings set created_at = now() - interval '2 days'")
    assert await meanings.sweep(house.database) >= 1
    assert not await house.database.fetchval("select exists(select from cached_meanings where key = $1)", first.key)
    kept = (await control(house.database).list(agent=house.agent.name))[0]
    assert await house.database.fetchval("select exists(select from cached_meanings where key = $1)", kept.key)
