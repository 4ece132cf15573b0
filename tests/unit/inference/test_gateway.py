"""The one door to the models, on a real PostgreSQL: what is paid is recorded, what is refused is given back, nothing is paid twice."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from activities.inference import asking, turns
from activities.inference.asking import Answered, Asked, Kept, Refused
from activities.inference.gateway import Gateway
from activities.inference.providers.protocol import Progress
from activities.inference.providers.scripted import Script, ScriptedModel
from activities.inference.routing import Router
from activities.inference.turns import Seat
from devstack.postgres import EmbeddedPostgres, PostgresSettings
from devstack.stack import RunningStack
from state import model_calls, runs, transcripts
from state.migrate import migrate
from state.model_calls import Charge
from state.pool import Database
from state.runs import NewRun
from workflows.contracts import policies
from workflows.contracts.agents import AgentDefinition, Limits
from workflows.contracts.errors import FailureClass, StepError, UnknownModelError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.messages import Message, ModelRequest, ModelResponse, Role, Usage
from workflows.contracts.provider_settings import ModelSettings, ProviderEntry
from workflows.contracts.steps import ModelCallRequest

PRICE = ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(1_000), context_window_tokens=10_000)
SETTINGS = InferenceSettings(
    providers={name: ProviderEntry(dialect="openai") for name in ("first", "second", "absent")},
    tiers={"smart": ("first:m", "second:m"), "lonely": ("first:m",)},
    models={f"{name}:m": PRICE for name in ("first", "second", "absent")},
)
USAGE = Usage(input_tokens=1_000, output_tokens=10)
COST_USD = Decimal("0.011")
QUOTA = StepError("no credit left", failure_class=FailureClass.QUOTA, code="insufficient_quota")
WAIT_S = 10.0


def answer(text: str = "the answer") -> ModelResponse:
    return ModelResponse(model="m-2026", text=text, finish="stop", usage=USAGE, request_id="req-1")


def keep(answered: Answered) -> Kept:
    """The turn, and the row of the transcript, that are recorded with an answer."""
    return Kept({"text": answered.response.text}, [transcripts.row(1, Message(role=Role.ASSISTANT, text=answered.response.text))])


class Desk:
    """A run of its own, two scripted models, and the gateway to them."""

    def __init__(self, database: Database, run_id: str, model: str, cost_usd: Decimal) -> None:
        self.database = database
        self.run_id = run_id
        pinned = AgentDefinition(name="support", instructions="Help.", model=model, limits=Limits(cost_usd=cost_usd))
        self.asked = asking.whole(pinned, ())
        self.request = ModelCallRequest(run_id=run_id, step=1, agent=pinned.pin(), tenant="default")
        self.gateway = Gateway(database, Router(SETTINGS), {})

    @classmethod
    async def opened(cls, database: Database, model: str = "smart", cost_usd: Decimal = Decimal(5)) -> Desk:
        run_id = f"gateway-{uuid.uuid4().hex[:12]}"
        new = NewRun(run_id, "default", "support", "hash", None, None, "body", cost_usd)
        await runs.create(database, new, Message(role=Role.USER, text="hello"))
        return cls(database, run_id, model, cost_usd)

    def script(self, first: list[Script], second: list[Script] | None = None) -> tuple[ScriptedModel, ScriptedModel]:
        models = ScriptedModel(first, name="first"), ScriptedModel(second or [], name="second")
        self.gateway.configure(Router(SETTINGS), {model.name: model for model in models})
        return models

    async def pay(self, attempt: int = 1, keep: Callable[[Answered], Kept] = keep, asked: Asked | None = None) -> Any:
        return await self.gateway.pay(self.request, asked or self.asked, attempt, keep)

    async def charges(self) -> list[Charge]:
        return await model_calls.charges(self.database, self.run_id)

    async def states(self) -> list[str]:
        return [charge.state for charge in await self.charges()]

    async def money(self) -> tuple[Decimal, Decimal, Decimal]:
        books = await runs.books(self.database, self.run_id)
        return books.spent_usd, books.reserved_usd, books.unknown_usd


@pytest.fixture
async def desk(database: Database) -> Desk:
    return await Desk.opened(database)


async def test_an_answer_is_paid_recorded_and_found_again(desk: Desk) -> None:
    first, second = desk.script([answer()])
    assert await desk.pay() == ({"text": "the answer"}, Decimal(0))
    assert await desk.pay(attempt=2) == ({"text": "the answer"}, Decimal(0))
    assert len(first.requests) == 1
    assert second.requests == []
    assert await desk.states() == ["recorded"]
    assert await desk.money() == (COST_USD, Decimal(0), Decimal(0))
    assert (await desk.charges())[0].price_version == "models.yaml"


async def test_the_model_is_sent_the_conversation_behind_the_instructions_with_the_key_of_the_step(desk: Desk) -> None:
    first, _ = desk.script([answer()])
    await desk.pay()
    (sent,) = first.requests
    assert [(message.role, message.text) for message in sent.messages] == [(Role.SYSTEM, "Help."), (Role.USER, "hello")]
    assert (sent.model, sent.idempotency_key, sent.max_output_tokens) == ("m", f"{desk.run_id}:1", 1_024)


async def test_a_used_up_quota_goes_to_the_next_candidate_at_once(desk: Desk) -> None:
    first, second = desk.script([QUOTA], [answer()])
    assert (await desk.pay())[0] == {"text": "the answer"}
    assert len(first.requests) == len(second.requests) == 1
    assert [(charge.provider, charge.state, charge.failure_class) for charge in await desk.charges()] == [
        ("first", "failed", "quota"),
        ("second", "recorded", None),
    ]
    assert await desk.money() == (COST_USD, Decimal(0), Decimal(0))


async def test_when_every_quota_is_used_up_the_step_fails_with_that_class(desk: Desk) -> None:
    first, second = desk.script([QUOTA], [QUOTA])
    with pytest.raises(StepError, match="no credit left") as raised:
        await desk.pay()
    assert raised.value.failure_class is FailureClass.QUOTA
    assert len(first.requests) == len(second.requests) == 1, "never asked again with the same key"
    assert await desk.money() == (Decimal(0),) * 3


@pytest.mark.parametrize("failure_class", sorted(set(FailureClass) - {FailureClass.QUOTA}))
async def test_any_other_failure_is_left_to_the_retry_and_gives_the_reservation_back(desk: Desk, failure_class: FailureClass) -> None:
    _, second = desk.script([StepError("refused", failure_class=failure_class)])
    with pytest.raises(StepError, match="refused"):
        await desk.pay()
    assert second.requests == []
    assert await desk.states() == ["failed"]
    assert await desk.money() == (Decimal(0),) * 3


async def test_a_failure_that_may_have_been_billed_is_charged_as_unknown(desk: Desk) -> None:
    desk.script([StepError("the stream broke", failure_class=FailureClass.TRANSIENT, spend_unknown=True), answer()])
    with pytest.raises(StepError):
        await desk.pay()
    (charge,) = await desk.charges()
    spent, reserved, unknown = await desk.money()
    assert (charge.state, charge.cost_usd, reserved) == ("unknown", spent, Decimal(0))
    assert spent == unknown > 1
    assert await desk.pay(attempt=2) == ({"text": "the answer"}, unknown)


async def test_after_a_few_failed_attempts_the_next_candidate_is_asked_first(desk: Desk) -> None:
    few = policies.CANDIDATE_ATTEMPTS
    first, second = desk.script([StepError("away", failure_class=FailureClass.TRANSIENT)] * few, [answer()])
    for attempt in range(1, few + 1):
        with pytest.raises(StepError, match="away"):
            await desk.pay(attempt)
    await desk.pay(few + 1)
    assert (len(first.requests), len(second.requests)) == (few, 1)
    assert (await desk.charges())[-1].reason == "tier smart, choice 2 of 2"


async def test_a_short_wait_that_the_provider_asks_for_is_waited_and_a_long_one_goes_to_the_next_candidate(desk: Desk) -> None:
    desk.script([StepError("in a moment", failure_class=FailureClass.THROTTLED, retry_after_s=1.0)], [answer()])
    with pytest.raises(StepError, match="in a moment"):
        await desk.pay()
    desk.script([StepError("in a minute", failure_class=FailureClass.THROTTLED, retry_after_s=60.0)], [answer()])
    assert (await desk.pay(attempt=2))[0] == {"text": "the answer"}
    assert [(charge.provider, charge.state) for charge in await desk.charges()] == [
        ("first", "failed"),
        ("first", "failed"),
        ("second", "recorded"),
    ]


async def test_a_refused_key_goes_on_to_the_next_candidate_at_once(desk: Desk) -> None:
    first, second = desk.script([StepError("wrong key", failure_class=FailureClass.CALLER, code="invalid_api_key")], [answer()])
    assert (await desk.pay())[0] == {"text": "the answer"}
    assert len(first.requests) == len(second.requests) == 1


async def test_a_provider_without_a_key_is_the_callers_to_mend_and_says_how(database: Database) -> None:
    desk = await Desk.opened(database, model="absent:m")
    desk.script([])
    with pytest.raises(StepError, match=r"Provider 'absent' has no key on this worker: set its environment variable") as raised:
        await desk.pay()
    assert (raised.value.failure_class, raised.value.code) == (FailureClass.CALLER, "no_key")
    assert await desk.states() == [], "nothing was reserved"


async def test_a_model_that_nobody_serves_is_named(database: Database) -> None:
    desk = await Desk.opened(database, model="clever")
    with pytest.raises(UnknownModelError, match="'clever' is neither a tier"):
        await desk.pay()


async def test_a_call_that_the_budget_cannot_carry_is_not_made(database: Database) -> None:
    desk = await Desk.opened(database, cost_usd=Decimal("0.001"))
    first, second = desk.script([answer()])
    refused = await desk.pay()
    assert isinstance(refused, Refused)
    assert (refused.outcome, refused.refused_by) == ("over_budget", desk.run_id)
    assert first.requests == second.requests == []


async def test_a_conversation_that_does_not_fit_is_not_sent(desk: Desk) -> None:
    first, _ = desk.script([answer()])
    async with desk.database.transaction() as connection:
        await transcripts.append(connection, desk.run_id, 0, "support", Message(role=Role.USER, text="x" * 60_000), part=1)
    refused = await desk.pay()
    assert isinstance(refused, Refused)
    assert refused.outcome == "context_full"
    assert first.requests == []


class Gate:
    """A provider that waits in mid-call."""

    name = "first"

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.open = asyncio.Event()
        self.calls = 0

    async def complete(self, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
        self.calls += 1
        self.began.set()
        await self.open.wait()
        return answer()

    async def aclose(self) -> None:
        """Nothing to close."""


async def test_a_call_that_is_cancelled_in_the_air_is_charged_as_unknown(desk: Desk) -> None:
    gate = Gate()
    desk.gateway.configure(Router(SETTINGS), {"first": gate})
    paying = asyncio.create_task(desk.pay())
    await asyncio.wait_for(gate.began.wait(), WAIT_S)
    reserved = (await desk.money())[1]
    assert reserved > 0

    paying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await paying
    (charge,) = await desk.charges()
    assert (charge.state, charge.cost_usd, charge.failure) == ("unknown", reserved, "CancelledError in mid-call")
    assert await desk.money() == (reserved, Decimal(0), reserved)


async def test_a_step_that_is_cancelled_while_its_answer_is_written_has_it_written_all_the_same(desk: Desk, stack: RunningStack) -> None:
    gate, kept = Gate(), asyncio.Event()
    desk.gateway.configure(Router(SETTINGS), {"first": gate})

    def keep_and_say(answered: Answered) -> Kept:
        kept.set()
        return keep(answered)

    paying = asyncio.create_task(desk.pay(keep=keep_and_say))
    await asyncio.wait_for(gate.began.wait(), WAIT_S)
    holder = await asyncpg.connect(stack.database_url)
    try:
        async with holder.transaction():
            await holder.fetchval("select 1 from runs where run_id = $1 for update", desk.run_id)
            gate.open.set()
            await asyncio.wait_for(kept.wait(), WAIT_S)
            paying.cancel()
    finally:
        await holder.close()
    with pytest.raises(asyncio.CancelledError):
        await paying
    assert await desk.states() == ["recorded"]


async def test_a_silent_stream_is_dead_and_may_have_been_billed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "STREAM_IDLE_S", 0.2)
    desk.gateway.configure(Router(SETTINGS), {"first": Gate()})
    with pytest.raises(StepError, match=r"brought nothing for 0\.2 s") as raised:
        await desk.pay()
    assert (raised.value.failure_class, raised.value.code) == (FailureClass.TRANSIENT, "stream_idle")
    assert await desk.states() == ["unknown"]


async def test_a_slow_stream_that_keeps_coming_is_alive(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "STREAM_IDLE_S", 0.3)

    class Slow(Gate):
        async def complete(self, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
            for events in range(8):
                await asyncio.sleep(0.1)
                on_progress(Progress(events=events, output_chars=events))
            return answer()

    desk.gateway.configure(Router(SETTINGS), {"first": Slow()})
    assert (await desk.pay())[0] == {"text": "the answer"}


@pytest.mark.parametrize("error", [StepError("no use", failure_class=FailureClass.MODEL_BEHAVIOUR, spend_unknown=True), KeyError("a bug")])
async def test_an_answer_that_cannot_be_read_was_paid_all_the_same(desk: Desk, error: Exception) -> None:
    def refuse(_: Answered) -> Kept:
        raise error

    desk.script([answer()])
    with pytest.raises(type(error)):
        await desk.pay(keep=refuse)
    spent, reserved, unknown = await desk.money()
    assert (await desk.states(), reserved) == (["unknown"], Decimal(0))
    assert spent == unknown > 0


@pytest.mark.parametrize("odd", ["a\x00b", "a\ud800b"])
async def test_an_answer_with_text_that_no_database_keeps_is_recorded(desk: Desk, odd: str) -> None:
    def keep_turn(answered: Answered) -> Kept:
        seat = Seat(AgentDefinition(name="support", instructions="Help."), {})
        read = turns.read_turn(desk.run_id, 1, seat, answered.request, answered.response, answered.price.cost_usd, answered.unknown_usd)
        return Kept(read.turn.model_dump(mode="json"), read.rows)

    desk.script([answer(odd)])
    await desk.pay(keep=keep_turn)
    assert await desk.states() == ["recorded"]


@pytest.fixture
async def own_server() -> AsyncIterator[EmbeddedPostgres]:
    """A PostgreSQL of this test's own, to be taken down."""
    postgres = EmbeddedPostgres(PostgresSettings())
    async with postgres.running():
        await migrate(postgres.dsn)
        yield postgres


@pytest.mark.parametrize("end", [EmbeddedPostgres.stop, EmbeddedPostgres.kill], ids=["stopped", "killed"])
async def test_a_paid_answer_is_held_while_the_database_is_away_and_recorded_once_it_is_back(
    own_server: EmbeddedPostgres, end: Callable[[EmbeddedPostgres], Awaitable[None]]
) -> None:
    async with Database.open(own_server.dsn) as database:
        desk = await Desk.opened(database)
        gate, kept = Gate(), asyncio.Event()
        desk.gateway.configure(Router(SETTINGS), {"first": gate})

        def keep_and_say(answered: Answered) -> Kept:
            kept.set()
            return keep(answered)

        paying = asyncio.create_task(desk.pay(keep=keep_and_say))
        await asyncio.wait_for(gate.began.wait(), WAIT_S)
        await end(own_server)
        gate.open.set()
        await asyncio.wait_for(kept.wait(), WAIT_S)
        done, _ = await asyncio.wait([paying], timeout=policies.RECORD_RETRY_S * 2)
        assert not done, "the answer is held"

        await own_server.start()
        assert await asyncio.wait_for(paying, WAIT_S) == ({"text": "the answer"}, Decimal(0))
        assert (await desk.pay(attempt=2))[0] == {"text": "the answer"}
        assert gate.calls == 1
        assert await desk.states() == ["recorded"]
        assert await desk.money() == (COST_USD, Decimal(0), Decimal(0))


async def test_a_refusal_while_the_database_is_away_keeps_its_class_and_the_next_attempt_settles_the_books(
    own_server: EmbeddedPostgres,
) -> None:
    async with Database.open(own_server.dsn) as database:
        desk = await Desk.opened(database)

        async def refuse(_: ModelRequest) -> Exception:
            await own_server.stop()
            return StepError("slow down", failure_class=FailureClass.THROTTLED)

        desk.script([refuse, answer()])
        with pytest.raises(StepError, match="slow down"):
            await desk.pay()
        await own_server.start()
        turn, unknown_usd = await desk.pay(attempt=2)
        assert (turn, await desk.states()) == ({"text": "the answer"}, ["unknown", "recorded"])
        assert unknown_usd > 0, "nobody could write down that it was refused"
