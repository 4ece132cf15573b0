"""The tool by which a model asks people: offered where the agent may, judged before anybody is asked, answers held against it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from activities.inference import answers
from activities.inference.turns import ASK_PERSON, Seat, read_turn
from workflows.contracts.agents import AgentDefinition, ApprovalPolicy, ToolKind, ToolSpec
from workflows.contracts.messages import FinishReason, ModelRequest, ModelResponse, ToolCall, Usage
from workflows.contracts.steps import ModelTurn, TurnKind

POLICY = ApprovalPolicy(by=("ann",), risk="high")
PAY = ToolSpec(name="pay", description="Pay.", parameters={"type": "object"}, approve="amount_usd > 50", policy=POLICY)
DESK = AgentDefinition(name="desk", instructions="x", tools=(PAY,), ask_people=ApprovalPolicy(timeout_s=60))


def turn(definition: AgentDefinition, name: str, arguments: dict[str, Any]) -> tuple[ModelTurn, str]:
    """The turn, and what the model is told of a call that cannot be made."""
    request = ModelRequest(model="m", messages=(), max_output_tokens=64, idempotency_key="r:1")
    call = ToolCall(call_id="c", name=name, arguments=json.dumps(arguments))
    response = ModelResponse(model="m", text="", tool_calls=(call,), finish=FinishReason.TOOL_CALLS, usage=Usage(), simulated=True)
    read = read_turn("r", 1, Seat(definition, {}), request, response, Decimal(0), Decimal(0))
    return read.turn, read.rows[-1]["message"].get("text", "")


def test_only_an_agent_that_may_ask_people_is_offered_the_question() -> None:
    assert ASK_PERSON in Seat(DESK, {}).tools()
    assert ASK_PERSON not in Seat(DESK.model_copy(update={"ask_people": None}), {}).tools()


def test_a_question_carries_who_answers_it() -> None:
    read, _ = turn(DESK, ASK_PERSON, {"question": "Which?"})
    (call,) = read.calls
    assert (call.kind, call.needs_approval, call.policy) == (ToolKind.PERSON, False, ApprovalPolicy(timeout_s=60))


@pytest.mark.parametrize(("amount", "policy"), [(100, POLICY), (10, None)])
def test_a_call_carries_who_decides_when_a_yes_is_needed(amount: int, policy: ApprovalPolicy | None) -> None:
    read, _ = turn(DESK, "pay", {"amount_usd": amount})
    assert read.calls[0].policy == policy


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "'question' is a required property"),
        ({"question": ""}, "question"),
        ({"question": "x", "choices": ["one"]}, "choices"),
        ({"question": "x", "choices": ["a", "b"], "answer_schema": {}}, "give choices or answer_schema, not both"),
        ({"question": "x", "answer_schema": {"type": "objekt"}}, "answer_schema is no JSON schema"),
        ({"question": "x", "answer_schema": {"properties": {"a": {"pattern": "(a+)+$"}}}}, "pattern is not offered"),
        ({"question": "x", "answer_schema": {"$ref": "http://127.0.0.1/x"}}, r"$ref may only refer to the schema itself"),
    ],
)
def test_a_question_that_cannot_be_asked_is_told_back_to_the_model(asked: dict[str, Any], told: str) -> None:
    read, said = turn(DESK, ASK_PERSON, asked)
    assert read.kind is TurnKind.INVALID
    assert told in said


NUMBER = {"answer_schema": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}}


@pytest.mark.parametrize(
    ("asked", "answer", "misfit"),
    [
        ({}, "anything", ""),
        ({}, ["a", 1], ""),
        ({}, "", "answer: is empty"),
        ({}, None, "answer: is empty"),
        ({"choices": ["a", "b"]}, "a", ""),
        ({"choices": ["a", "b"]}, "c", 'answer: must be one of "a", "b"'),
        (NUMBER, {"n": 1}, ""),
        (NUMBER, {"n": "one"}, "answer.n: 'one' is not of type 'integer'"),
        ({"answer_schema": {"$ref": "#/nowhere"}}, 1, "answer: the schema that the agent gave cannot be used"),
    ],
)
def test_an_answer_is_held_against_what_was_asked(asked: dict[str, Any], answer: Any, misfit: str) -> None:
    found = answers.misfit(asked, answer)
    assert found.startswith(misfit)
    assert bool(found) == bool(misfit)


def test_a_schema_that_refers_elsewhere_is_never_fetched() -> None:
    assert "cannot be used" in answers.misfit({"answer_schema": {"$ref": "http://127.0.0.1:9/schema.json"}}, 1)


@pytest.mark.parametrize(("answer", "told"), [("blue", "blue"), ({"n": 1}, '{"n": 1}'), (3, "3"), ("ü", "ü")])
def test_an_answer_is_told_as_it_was_given(answer: Any, told: str) -> None:
    assert answers.told(answer) == told
