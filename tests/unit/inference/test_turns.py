"""A model's answer is judged before anything is done with it: what is sound is dispatched, what is not is told back, nothing is guessed."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from activities.inference.turns import MAX_CALLS_PER_TURN, ReadTurn, Seat, read_turn
from state import transcripts
from workflows.contracts.agents import AgentDefinition, Effect, Limits, ToolKind, ToolSpec
from workflows.contracts.messages import FinishReason, ModelRequest, ModelResponse, ToolCall, Usage
from workflows.contracts.runs import PREVIEW_CHARS
from workflows.contracts.steps import TurnKind

ORDER = {
    "type": "object",
    "properties": {
        "order": {"type": "object", "properties": {"lines": {"type": "array", "items": {"type": "integer"}}}, "required": ["lines"]},
        "amount_usd": {"type": "number", "minimum": 0},
    },
    "required": ["order"],
    "additionalProperties": False,
}
TOOLS = (
    ToolSpec(name="find", description="Find.", parameters={"type": "object", "properties": {"q": {"type": "string"}}}),
    ToolSpec(name="deep", description="Take anything.", parameters={"type": "object"}),
    ToolSpec(
        name="refund",
        description="Pay back.",
        parameters=ORDER,
        effect=Effect.ONCE,
        approve="amount_usd > 50",
        timeout_s=7,
        retries=2,
    ),
)
HELPER = AgentDefinition(name="helper", instructions="Help.", description="It looks things up.", limits=Limits(cost_usd=Decimal("0.3")))
BILLING = AgentDefinition(name="billing", instructions="Bill.")
SUPPORT = AgentDefinition(name="support", instructions="Support.", tools=TOOLS, agents=("helper",), handoffs=("billing",))
SEAT = Seat(SUPPORT, {"helper": HELPER, "billing": BILLING})
SCHEMA = {"type": "object", "properties": {"status": {"enum": ["open", "done"]}}, "required": ["status"]}
KEY = "sk-ant-api03-" + "Ab3dE5gH7jK9" * 4
GOOD = '{"order": {"lines": [1]}}'


def read(response: ModelResponse, output_schema: dict[str, Any] | None = None) -> ReadTurn:
    asked = ModelRequest(model="m", messages=(), max_output_tokens=64, idempotency_key="r:3", output_schema=output_schema)
    return read_turn("r", 3, SEAT, asked, response, Decimal("0.01"), Decimal("0.002"))


def said(text: str = "", *calls: tuple[str, str], finish: FinishReason | None = None, ids: tuple[str, ...] = ()) -> ModelResponse:
    made = tuple(
        ToolCall(call_id=ids[place] if ids else f"c{place}", name=name, arguments=arguments)
        for place, (name, arguments) in enumerate(calls)
    )
    usage = Usage(input_tokens=10, output_tokens=2)
    reason = finish or (FinishReason.TOOL_CALLS if calls else FinishReason.STOP)
    return ModelResponse(model="m-2026", text=text, tool_calls=made, finish=reason, usage=usage, simulated=True)


def told(turn: ReadTurn, place: int = 1) -> str:
    """What the model is told in a row that was added to its own."""
    return str(turn.rows[place]["message"]["text"])


def test_a_text_is_the_answer():
    turn = read(said("It is on its way."))
    assert turn.turn.kind is TurnKind.FINAL
    assert (turn.turn.step, turn.turn.last_step, turn.turn.model, turn.turn.preview) == (3, 3, "m-2026", "It is on its way.")
    assert (turn.turn.cost_usd, turn.turn.unknown_usd) == (Decimal("0.012"), Decimal("0.002"))
    assert turn.turn.simulated
    assert [(row["step"], row["part"]) for row in turn.rows] == [(3, 0)]


def test_sound_calls_are_dispatched_at_the_steps_that_follow():
    turn = read(said("Let me see.", ("find", '{"q": "W1"}'), ("refund", GOOD)))
    assert turn.turn.kind is TurnKind.TOOLS
    assert (turn.turn.last_step, turn.turn.invalid_calls) == (5, 0)
    find, refund = turn.turn.calls
    assert (find.step, find.call_id, find.kind, find.effect, find.preview) == (4, "c0", ToolKind.FUNCTION, Effect.PURE, '{"q":"W1"}')
    assert (refund.step, refund.effect, refund.timeout_s, refund.retries) == (5, Effect.ONCE, 7, 2)
    assert len(turn.rows) == 1, "their results are written by the tools"


def test_the_same_arguments_have_the_same_hash_however_they_are_written():
    calls = ('{"order": {"lines": [1, 2]}, "amount_usd": 1}', '{ "amount_usd":1,"order":{"lines":[1,2]} }', '{"order": {"lines": [2, 1]}}')
    same, also_same, other = read(said("", *[("refund", call) for call in calls])).turn.calls
    assert same.arguments_hash == also_same.arguments_hash != other.arguments_hash


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("fnd", "{}", "There is no tool 'fnd'. The tools are: deep, find, hand_over_to_billing, helper, refund."),
        ("find", '{"q": ', "The arguments of find are not JSON: "),
        ("find", "[" * 100_000, "The arguments of find are not JSON: "),
        ("find", '{"q": ' + "9" * 5_000 + "}", "The arguments of find are not JSON: "),
        ("refund", '{"order": {"lines": []}, "amount_usd": NaN}', "The arguments of refund are not JSON: "),
        ("refund", '{"order": {"lines": []}, "amount_usd": Infinity}', "The arguments of refund are not JSON: "),
        ("find", '["W1"]', "The arguments of find must be a JSON object."),
        ("find", "null", "The arguments of find must be a JSON object."),
        ("refund", "{}", "The arguments of refund do not fit its schema: the arguments: 'order' is a required property"),
        ("refund", '{"order": {"lines": [1, "two"]}}', "The arguments of refund do not fit its schema: order/lines/1: 'two' is not of"),
        ("refund", '{"order": {"lines": []}, "amount_usd": -1}', "do not fit its schema: amount_usd: -1 is less than the minimum of 0"),
        ("refund", '{"order": {"lines": []}, "more": 1}', "Additional properties are not allowed ('more' was unexpected)"),
        ("helper", "{}", "'request' is a required property"),
        ("helper", '{"request": 5}', "request: 5 is not of type 'string'"),
    ],
)
def test_a_malformed_call_is_told_back_and_not_dispatched(name: str, arguments: str, expected: str):
    turn = read(said("", (name, arguments)))
    assert (turn.turn.kind, turn.turn.calls, turn.turn.invalid_calls) == (TurnKind.INVALID, (), 1)
    assert turn.turn.last_step == 4, "the telling has a step of its own"
    row = turn.rows[1]
    assert (row["step"], row["message"]["role"], row["message"]["call_id"], row["message"]["is_error"]) == (4, "tool", "c0", True)
    assert expected in told(turn)
    assert turn.turn.reason == " ".join(told(turn).split())[: PREVIEW_CHARS - 1] + "…" or turn.turn.reason == told(turn)
    assert turn.sub_runs == []


def test_of_several_calls_the_sound_ones_are_dispatched_at_their_own_steps():
    turn = read(said("", ("find", "{"), ("find", "{}"), ("nothing", "{}"), ("refund", GOOD)))
    assert (turn.turn.kind, turn.turn.invalid_calls, turn.turn.last_step) == (TurnKind.TOOLS, 2, 7)
    assert [(ref.step, ref.name) for ref in turn.turn.calls] == [(5, "find"), (7, "refund")]
    assert [row["step"] for row in turn.rows] == [3, 4, 6]


def test_calls_of_an_answer_that_was_cut_off_are_not_run_even_if_they_look_sound():
    turn = read(said("", ("refund", GOOD), finish=FinishReason.LENGTH))
    assert (turn.turn.kind, turn.turn.calls) == (TurnKind.INVALID, ())
    assert told(turn).startswith("Not run: your answer was cut off at the output limit.")


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (said("I will not.", finish=FinishReason.REFUSAL), "You declined to answer."),
        (said("It is on", finish=FinishReason.LENGTH), "Your answer was cut off at 64 tokens."),
        (said(""), "Your answer was empty."),
        (said(" \n\t"), "Your answer was empty."),
    ],
)
def test_an_answer_that_is_none_is_told_back(response: ModelResponse, expected: str):
    turn = read(response)
    assert turn.turn.kind is TurnKind.INVALID
    assert (turn.rows[1]["step"], turn.rows[1]["part"], turn.rows[1]["message"]["role"]) == (3, 1, "user")
    assert told(turn).startswith(expected)
    assert turn.turn.last_step == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is done.", "must be JSON by the schema you were given, and is not JSON"),
        ('{"status": ', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"status": NaN}', "is not JSON"),
        ('{"status": "lost"}', "does not fit the schema: status: 'lost' is not one of ['open', 'done']"),
        ("[]", "does not fit the schema: the answer: [] is not of type 'object'"),
    ],
)
def test_an_answer_that_does_not_fit_the_schema_is_told_back_with_the_place(text: str, expected: str):
    turn = read(said(text), SCHEMA)
    assert turn.turn.kind is TurnKind.INVALID
    assert expected in told(turn)


def test_an_answer_that_fits_the_schema_is_the_answer():
    assert read(said('{"status": "done"}'), SCHEMA).turn.kind is TurnKind.FINAL


@pytest.mark.parametrize("ids", [("", "", ""), ("x", "x", "x"), ("x", "", "x")])
def test_missing_and_repeated_call_ids_are_replaced_everywhere(ids: tuple[str, ...]):
    turn = read(said("", ("find", "{}"), ("find", "{"), ("find", "{}"), ids=ids))
    first, third = (ref.call_id for ref in turn.turn.calls)
    second = turn.rows[1]["message"]["call_id"]
    assert len({first, second, third}) == 3
    assert [call["call_id"] for call in turn.rows[0]["message"]["tool_calls"]] == [first, second, third]
    assert all((first, second, third))


@pytest.mark.parametrize(("amount", "needed"), [(50, False), (50.01, True), (10**9, True)])
def test_a_call_needs_approval_when_the_tools_condition_says_so(amount: float, needed: bool):
    arguments = json.dumps({"order": {"lines": []}, "amount_usd": amount})
    (call,) = read(said("", ("refund", arguments))).turn.calls
    assert call.needs_approval is needed


def test_a_call_of_another_agent_founds_a_sub_run_with_its_request():
    turn = read(said("", ("find", "{}"), ("helper", '{"request": "look W1 up"}')))
    call = turn.turn.calls[1]
    assert (call.kind, call.agent) == (ToolKind.AGENT, HELPER.pin())
    (sub_run,) = turn.sub_runs
    assert (sub_run.run_id, sub_run.agent, sub_run.definition_hash, sub_run.cost_limit_usd) == (
        "r.5",
        "helper",
        HELPER.content_hash(),
        Decimal("0.3"),
    )
    assert sub_run.message.text == "look W1 up"


def test_a_hand_over_names_the_agent_as_it_stands_now_and_founds_nothing():
    turn = read(said("", ("hand_over_to_billing", '{"reason": "money"}')))
    (call,) = turn.turn.calls
    assert (call.kind, call.agent) == (ToolKind.HANDOFF, BILLING.pin())
    assert turn.sub_runs == []


def test_the_model_is_offered_tools_agents_and_hand_overs():
    offered = {schema.name: schema for schema in SEAT.schemas()}
    assert set(offered) == {"find", "deep", "refund", "helper", "hand_over_to_billing"}
    assert offered["helper"].description == "It looks things up."
    assert offered["hand_over_to_billing"].description == "The agent billing."
    assert offered["helper"].parameters["required"] == ["request"]


def test_a_turn_makes_only_so_many_calls():
    turn = read(said("", *[("find", "{}")] * (MAX_CALLS_PER_TURN + 5)))
    assert len(turn.turn.calls) == MAX_CALLS_PER_TURN == len(turn.rows[0]["message"]["tool_calls"])


def test_previews_are_short_single_lines_without_secrets():
    turn = read(said(f"{KEY}\n\n" + "long " * 100))
    assert len(turn.turn.preview) == PREVIEW_CHARS
    assert "\n" not in turn.turn.preview
    assert KEY not in turn.turn.model_dump_json() + json.dumps(turn.rows)
    (call,) = read(said("", ("find", json.dumps({"q": KEY})))).turn.calls
    assert KEY not in call.model_dump_json()


@pytest.mark.parametrize("odd", ["a\x00b", "a\ud800b", "\udfff"])
def test_text_that_no_database_keeps_does_not_lose_a_paid_answer(odd: str):
    response = said(odd + "text", ("find", json.dumps({"q": odd})), ("helper", json.dumps({"request": odd})), ids=(odd, odd + "2"))
    for turn in (read(response), read(said(odd + "text"))):
        founded = [transcripts.row(0, run.message) for run in turn.sub_runs]
        stored = json.dumps([turn.turn.model_dump(mode="json"), turn.rows, founded], ensure_ascii=False)
        stored.encode()
        assert "\\u0000" not in stored.replace("\\\\u0000", "")


@pytest.mark.parametrize("depth", range(100, 1_100, 50))
def test_deep_arguments_are_dispatched_or_told_and_never_break(depth: int):
    arguments = '{"q": ' + '{"q": ' * depth + "1" + "}" * depth + "}"
    turn = read(said("", ("deep", arguments)))
    assert turn.turn.kind in (TurnKind.TOOLS, TurnKind.INVALID)
