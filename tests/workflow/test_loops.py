"""A model that goes round in circles is told so, and then stopped: repeats, malformed answers, a full context."""

from __future__ import annotations

from decimal import Decimal

from tests.workflow.scripted import Engine, Script, agent, asks_for, call, call_agent, final, invalid, no_call
from workflows.contracts import names
from workflows.contracts.errors import FailureClass
from workflows.contracts.messages import Usage
from workflows.contracts.runs import Redrive, RunStatus
from workflows.contracts.steps import TurnKind

FULL = no_call(TurnKind.CONTEXT_FULL, "the conversation does not fit the model's context window")


async def test_a_call_that_keeps_giving_the_same_result_is_refused_and_the_model_is_told(engine: Engine, script: Script) -> None:
    script.model("support", *[asks_for(call("find_order", {"order_id": "W1"}))] * 3, final())
    await engine.run(agent(repeats=2))

    assert len(script.ran) == 2
    (told,) = script.asked[-1].appendices
    assert (told.step, told.call_id, told.is_error) == (6, "call_6", True)
    assert told.text == "Not run: 2 such calls gave the same result. Do something else, or answer."


async def test_a_model_that_does_not_heed_the_refusals_is_parked_and_a_redrive_runs_the_call(engine: Engine, script: Script) -> None:
    script.model("support", *[asks_for(call("find_order", {"order_id": "W1"}))] * 5, final())
    handle = await engine.start(agent(repeats=2))

    view = await engine.parked(handle)
    assert view.parked is not None
    assert (view.parked.failure_class, view.parked.what, view.parked.step) == (
        FailureClass.MODEL_BEHAVIOUR,
        "run_tool find_order",
        10,
    )
    assert len(script.ran) == 2

    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert [request.step for request in script.ran] == [2, 4, 10]


async def test_calls_that_differ_or_bring_something_new_are_no_repeats(engine: Engine, script: Script) -> None:
    status, other = call("status", {"order_id": "W1"}), call("status", {"order_id": "W2"})
    script.model("support", asks_for(status), asks_for(other), *[asks_for(status)] * 4, final())
    script.tool("status", *[lambda _, text=text: text for text in ("packed", "packed", "sent", "packed", "sent", "sent")])
    await engine.run(agent(repeats=2))
    assert len(script.ran) == 6


async def test_a_sub_agent_that_keeps_giving_the_same_answer_is_refused_too(engine: Engine, script: Script) -> None:
    helper = agent("helper")
    script.model("support", *[asks_for(call_agent(helper, "look it up"))] * 3, final())
    script.model("helper", then=final("nothing found"))
    await engine.run(agent(repeats=2))
    assert [request.run_id.rpartition(".")[2] for request in script.asked if request.agent.name == "helper"] == ["2", "4"]
    assert script.asked[-1].appendices[0].text.startswith("Not run")


async def test_malformed_answers_in_a_row_are_bounded(engine: Engine, script: Script) -> None:
    script.model("support", invalid("first"), invalid("second"), invalid("third"), final())
    handle = await engine.start(agent(corrections=2))

    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.MODEL_BEHAVIOUR
    assert view.parked.cause == "3 malformed answers in a row; the last: third"
    assert len(script.asked) == 3

    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).answer_step == 4


async def test_a_sound_answer_in_between_starts_the_count_of_malformed_ones_anew(engine: Engine, script: Script) -> None:
    script.model("support", invalid(), invalid(), asks_for(call("find_order")), invalid(), invalid(), final())
    assert (await engine.run(agent(corrections=2))).totals.calls == 6


async def test_a_turn_with_one_malformed_call_runs_the_sound_ones_and_counts_as_malformed(engine: Engine, script: Script) -> None:
    half_sound = asks_for(call("find_order"), invalid_calls=1, reason="no tool 'fnd'")
    script.model("support", half_sound, half_sound, final())
    handle = await engine.start(agent(corrections=1))
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.MODEL_BEHAVIOUR
    assert [request.step for request in script.ran] == [2]

    await handle.signal(names.REDRIVE, Redrive())
    assert (await engine.result(handle)).answer_step == 7
    assert [request.step for request in script.ran] == [2, 5]


async def test_a_full_context_is_summarised_once_and_the_run_goes_on(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("find_order")), FULL, final())
    outcome = await engine.run(agent())

    assert [request.step for request in script.compacted] == [3]
    assert [request.step for request in script.asked] == [1, 3, 4]
    assert outcome.answer_step == 4
    assert (outcome.totals.calls, outcome.totals.steps) == (3, 4)
    assert (outcome.totals.cost_usd, outcome.totals.usage) == (Decimal("0.007"), Usage(input_tokens=700, output_tokens=70))


async def test_a_context_that_is_full_again_right_after_summarising_parks_the_run(engine: Engine, script: Script) -> None:
    script.model("support", FULL, FULL, final())
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.CONTEXT
    assert view.parked.cause == "the conversation does not fit the model's context window"
    assert len(script.compacted) == 1

    await handle.signal(names.REDRIVE, Redrive(model="openai:one-with-more-room"))
    outcome = await engine.result(handle)
    assert script.asked[-1].agent.model == "openai:one-with-more-room"
    assert len(script.compacted) == 1, "a larger model needs no further summary"
    assert outcome.answer_step == 2


async def test_a_context_that_fills_again_after_some_work_is_summarised_again(engine: Engine, script: Script) -> None:
    script.model("support", FULL, asks_for(call("find_order")), FULL, final())
    assert (await engine.run(agent())).answer_step == 5
    assert [request.step for request in script.compacted] == [1, 4]


async def test_what_the_engine_decided_reaches_the_summary_and_is_not_told_twice(engine: Engine, script: Script) -> None:
    refund = asks_for(call("refund", needs_approval=True))
    script.model("support", refund, FULL, final())
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: bool(view.approvals))
    await handle.signal(names.REJECT, {"reason": "too much"})
    await engine.result(handle)
    assert [len(request.appendices) for request in script.asked] == [0, 1, 0]
    assert [len(request.appendices) for request in script.compacted] == [1]
