"""The activities that ask a model, as a workflow calls them: real gateway, real PostgreSQL, a scripted model."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.inference import summaries
from activities.inference.call_model import ModelActivities
from activities.inference.gateway import Gateway
from activities.inference.providers.scripted import Script, ScriptedAnswer, ScriptedModel
from activities.inference.routing import Router
from state import model_calls, runs, transcripts
from state.definitions import Definitions
from state.pool import Database
from state.runs import NewRun
from workflows.contracts.agents import AgentDefinition, Limits
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.messages import FinishReason, Message, ModelResponse, Price, Role, Usage
from workflows.contracts.provider_settings import ModelSettings, ProviderEntry
from workflows.contracts.steps import Appendix, CompactOutcome, ModelCallRequest, ModelTurn, TurnKind

PRICE = ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(1_000), context_window_tokens=20_000)
SETTINGS = InferenceSettings(
    providers={"scripted": ProviderEntry(dialect="openai")}, tiers={"smart": ("scripted:m",)}, models={"scripted:m": PRICE}
)
USAGE = Usage(input_tokens=1_000, output_tokens=10)
LATE = ModelResponse(model="m", text="late", finish=FinishReason.STOP, usage=USAGE)
FULL = StepError("too long for the model", failure_class=FailureClass.CONTEXT)


class Seat:
    """An agent on a run of its own, and the activities that serve it."""

    def __init__(self, database: Database, definition: AgentDefinition, model: ScriptedModel) -> None:
        self.database = database
        self.definition = definition
        self.run_id = f"call-{uuid.uuid4().hex[:12]}"
        self.activities = ModelActivities(Gateway(database, Router(SETTINGS), {"scripted": model}), Definitions(database))

    def request(self, step: int = 1, *appendices: Appendix) -> ModelCallRequest:
        return ModelCallRequest(run_id=self.run_id, step=step, agent=self.definition.pin(), tenant="default", appendices=appendices)

    async def call(self, step: int = 1, *appendices: Appendix) -> ModelTurn:
        turn = await ActivityEnvironment().run(self.activities.call_model, self.request(step, *appendices))
        assert isinstance(turn, ModelTurn)
        return turn

    async def compact(self, step: int) -> CompactOutcome:
        outcome = await ActivityEnvironment().run(self.activities.compact_history, self.request(step))
        assert isinstance(outcome, CompactOutcome)
        return outcome


Sit = Callable[..., Any]


@pytest.fixture
def sit(database: Database) -> Sit:
    """Open a seat: its definition registered, its run begun."""

    async def opened(answers: list[Script], *, cost_usd: Decimal = Decimal(10), **fields: Any) -> tuple[Seat, ScriptedModel]:
        definition = AgentDefinition(name=f"agent-{uuid.uuid4().hex[:8]}", instructions="Help.", limits=Limits(cost_usd=cost_usd), **fields)
        await Definitions(database).register([definition], by="test")
        model = ScriptedModel(answers)
        seat = Seat(database, definition, model)
        new = NewRun(seat.run_id, "default", definition.name, definition.content_hash(), None, None, "body", cost_usd)
        await runs.create(database, new, Message(role=Role.USER, text="hello"))
        return seat, model

    return opened


def said(text: str = "the answer", **fields: Any) -> ScriptedAnswer:
    return ScriptedAnswer(text=text, usage=USAGE, **fields)


async def test_an_answer_is_a_turn_and_a_row_of_the_transcript(sit: Sit) -> None:
    seat, _ = await sit([said()])
    turn = await seat.call()
    assert (turn.kind, turn.preview, turn.cost_usd, turn.usage, turn.simulated) == (
        TurnKind.FINAL,
        "the answer",
        Decimal("0.011"),
        USAGE,
        True,
    )
    assert (await transcripts.message_at(seat.database, seat.run_id, 1)) == Message(role=Role.ASSISTANT, text="the answer")
    assert await seat.call() == turn, "a retry finds it"


async def test_a_malformed_answer_is_told_to_the_model_at_its_next_call(sit: Sit) -> None:
    seat, model = await sit([said("It is done."), said('{"status": "done"}')], output_schema={"type": "object"})
    assert (await seat.call(1)).kind is TurnKind.INVALID
    assert (await seat.call(2)).kind is TurnKind.FINAL
    assert [message.text.partition(",")[0] for message in model.requests[1].messages[2:]] == [
        "It is done.",
        "Your answer must be JSON by the schema you were given",
    ]


async def test_a_context_that_the_provider_finds_full_is_no_failure_and_costs_nothing(sit: Sit) -> None:
    seat, _ = await sit([FULL])
    turn = await seat.call()
    assert (turn.kind, turn.reason, turn.cost_usd) == (TurnKind.CONTEXT_FULL, "too long for the model", Decimal(0))


async def test_a_context_that_is_full_by_our_own_count_is_not_sent(sit: Sit) -> None:
    seat, model = await sit([])
    turn = await seat.call(2, Appendix(step=1, call_id="c", name="find", text="x" * 100_000))
    assert (turn.kind, turn.reason) == (TurnKind.CONTEXT_FULL, "the conversation does not fit the model's context window")
    assert model.requests == []


async def test_a_budget_that_is_used_up_is_a_limit_of_this_run(sit: Sit) -> None:
    seat, _ = await sit([], cost_usd=Decimal("0.001"))
    turn = await seat.call()
    assert turn.kind is TurnKind.LIMIT
    assert turn.reason == "limit cost_usd: the next call could pass what is left of the budget of this run (0.001 USD here)"


async def test_a_budget_that_a_caller_has_used_up_names_the_caller(sit: Sit) -> None:
    seat, _ = await sit([])
    await seat.database.execute(
        "insert into runs (run_id, tenant, agent, definition_hash, body_hash, cost_limit_usd) values ($1, 't', 'a', '', '', 0.001)",
        f"{seat.run_id}-caller",
    )
    await seat.database.execute("update runs set ancestors = array[$2] where run_id = $1", seat.run_id, f"{seat.run_id}-caller")
    turn = await seat.call()
    assert turn.kind is TurnKind.LIMIT
    assert f"the budget of the calling run {seat.run_id}-caller" in turn.reason


async def test_what_dead_attempts_were_charged_is_told_with_the_turn(sit: Sit) -> None:
    broken = StepError("the stream broke", failure_class=FailureClass.TRANSIENT, spend_unknown=True)
    seat, _ = await sit([broken, said()])
    with pytest.raises(StepError):
        await seat.call()
    turn = await seat.call()
    assert turn.unknown_usd > 0
    assert turn.cost_usd == turn.unknown_usd + Decimal("0.011")

    (dead, _) = await model_calls.charges(seat.database, seat.run_id)
    await model_calls.finish(  # the late answer of the dead attempt
        seat.database,
        dead.call_id,
        turn={},
        response=LATE,
        price=Price(cost_usd=Decimal("0.004"), version="v"),
        rows=[],
    )
    settled = await seat.call()
    assert (settled.unknown_usd, settled.cost_usd) == (Decimal(0), Decimal("0.011"))


async def test_a_summary_stands_for_what_came_before_it(sit: Sit) -> None:
    seat, model = await sit([said("first", calls=(("nothing", {}),)), said("the whole story"), said()])
    await seat.call(1)
    outcome = await seat.compact(3)
    assert (outcome.through_step, outcome.cost_usd, outcome.usage) == (2, Decimal("0.011"), USAGE)
    assert await seat.compact(3) == outcome, "a retry finds it"
    assert len(model.requests) == 2
    assert model.requests[1].messages[0].text == summaries.INSTRUCTIONS
    assert model.requests[1].tools == ()

    await seat.call(4)
    assert [message.text for message in model.requests[2].messages] == ["Help.", "hello", f"{summaries.MARK}the whole story"]


async def test_a_conversation_of_any_size_can_be_summarised(sit: Sit) -> None:
    seat, model = await sit([said("short")])
    async with seat.database.transaction() as connection:
        for step in range(1, 40):
            await transcripts.append(connection, seat.run_id, step, "a", Message(role=Role.ASSISTANT, text=f"{step} " + "x" * 20_000))
    await seat.compact(40)
    (sent,) = model.requests
    assert sum(map(transcripts.estimate_tokens, sent.messages)) < 20_000 * 0.6
    assert "user: hello" in sent.messages[1].text


@pytest.mark.parametrize("answer", [said(""), said("no", finish=FinishReason.REFUSAL), said("", calls=(("find", {}),))])
async def test_a_summary_that_is_none_is_a_failure_and_was_paid(sit: Sit, answer: ScriptedAnswer) -> None:
    seat, _ = await sit([answer])
    with pytest.raises(StepError, match="gave no summary") as raised:
        await seat.compact(2)
    assert raised.value.failure_class is FailureClass.MODEL_BEHAVIOUR
    assert (await runs.books(seat.database, seat.run_id)).unknown_usd > 0


async def test_a_summary_over_the_budget_is_a_limit(sit: Sit) -> None:
    seat, _ = await sit([], cost_usd=Decimal("0.001"))
    with pytest.raises(StepError, match="limit cost_usd") as raised:
        await seat.compact(2)
    assert raised.value.failure_class is FailureClass.LIMIT


async def test_a_summary_tells_what_dead_attempts_were_charged_until_they_are_settled(sit: Sit) -> None:
    broken = StepError("the stream broke", failure_class=FailureClass.TRANSIENT, spend_unknown=True)
    seat, _ = await sit([broken, said("short")])
    with pytest.raises(StepError):
        await seat.compact(2)
    outcome = await seat.compact(2)
    assert outcome.cost_usd == outcome.unknown_usd + Decimal("0.011") > Decimal("0.011")

    (dead, _) = await model_calls.charges(seat.database, seat.run_id)
    await model_calls.finish(
        seat.database, dead.call_id, turn={}, response=LATE, price=Price(cost_usd=Decimal("0.004"), version="v"), rows=[]
    )
    settled = await seat.compact(2)
    assert (settled.unknown_usd, settled.cost_usd) == (Decimal(0), Decimal("0.011"))
