"""What is the same to the response cache, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from activities.inference.cache_keys import Asker, cache_key
from tests.integration.inference.askers import asked, key_of
from workflows.contracts.agents import Cache
from workflows.contracts.messages import Message, ModelRequest, Role, ToolCall, ToolSchema

FIND = ToolSchema(name="find", description="Find.", parameters={"type": "object", "properties": {"a": {}, "b": {}}})


def digest(request: ModelRequest, **options: Any) -> str:
    return key_of(request, **{"agent": "desk"} | options).digest


def conversation(first: str = "c1", second: str = "c2", arguments: str = '{"a": 1, "b": 2}', found: str = "W17") -> ModelRequest:
    calls = (ToolCall(call_id=first, name="find", arguments=arguments), ToolCall(call_id=second, name="find", arguments="{}"))
    said = Message(role=Role.ASSISTANT, tool_calls=calls)
    results = [Message(role=Role.TOOL, call_id=call_id, text=text) for call_id, text in ((first, found), (second, "nothing"))]
    return asked("When does it come?", said, *results)


def test_run_step_metadata_and_call_ids_do_not_count() -> None:
    assert digest(asked("When?", idempotency_key="r1:1")) == digest(asked("When?", idempotency_key="r2:7", metadata={"trace": "x"}))
    assert digest(conversation("call_a", "call_b")) == digest(conversation("toolu_1", "toolu_2"))


def test_the_order_of_fields_in_a_calls_arguments_does_not_count() -> None:
    assert digest(conversation(arguments='{"a": 1, "b": 2}')) == digest(conversation(arguments='{"b":2,"a":1}'))
    assert digest(conversation(arguments='{"a": 1, "b": 2}')) != digest(conversation(arguments='{"a": 1, "b": 3}'))


def test_arguments_that_are_no_json_are_compared_as_they_are() -> None:
    assert digest(conversation(arguments="{a")) == digest(conversation(arguments="{a")) != digest(conversation(arguments="{b"))


def test_which_result_answers_which_call_counts() -> None:
    crossed = conversation()
    messages = [*crossed.messages[:3], *reversed(crossed.messages[3:])]
    swapped = [message.model_copy(update={"call_id": {"c1": "c2", "c2": "c1"}.get(message.call_id or "")}) for message in messages[3:]]
    assert digest(crossed.model_copy(update={"messages": (*messages[:3], *swapped)})) != digest(crossed)


@pytest.mark.parametrize(
    "other",
    [
        asked("When? "),
        asked("When?", max_output_tokens=101),
        asked("When?", temperature=0.0),
        asked("When?", tools=(FIND,)),
        asked("When?", output_schema={"type": "object"}),
        asked(Message(role=Role.ASSISTANT, text="When?")),
        asked("When?", Message(role=Role.ASSISTANT, text="Where?")),
    ],
)
def test_whatever_a_model_is_shown_counts(other: ModelRequest) -> None:
    assert digest(other) != digest(asked("When?"))


def test_the_order_of_a_schemas_properties_counts_as_models_follow_it() -> None:
    turned = FIND.model_copy(update={"parameters": {"type": "object", "properties": {"b": {}, "a": {}}}})
    assert digest(asked("When?", tools=(FIND,))) != digest(asked("When?", tools=(turned,)))


def test_the_tier_counts_and_the_model_that_is_taken_for_it_does_not() -> None:
    assert digest(asked("When?"), model="smart") != digest(asked("When?"), model="fast")
    assert digest(asked("When?", model="gpt-5")) == digest(asked("When?", model="claude-sonnet-4-5"))


@pytest.mark.parametrize(
    ("scope", "shared_by"),
    [
        ("user", {("t1", "desk", "u1")}),
        ("agent", {("t1", "desk", "u1"), ("t1", "desk", "u2")}),
        ("tenant", {("t1", "desk", "u1"), ("t1", "desk", "u2"), ("t1", "clerk", "u1")}),
        ("all", {("t1", "desk", "u1"), ("t1", "desk", "u2"), ("t1", "clerk", "u1"), ("t2", "desk", "u1")}),
    ],
)
def test_answers_are_shared_as_far_as_the_scope_says(scope: Any, shared_by: set[tuple[str, str, str]]) -> None:
    askers = [("t1", "desk", "u1"), ("t1", "desk", "u2"), ("t1", "clerk", "u1"), ("t2", "desk", "u1")]
    mine = digest(asked("When?"), scope=scope, tenant="t1", agent="desk", user="u1")
    same = {one for one in askers if digest(asked("When?"), scope=scope, tenant=one[0], agent=one[1], user=one[2]) == mine}
    assert same == shared_by


def test_tenants_are_apart_unless_all_is_said() -> None:
    assert key_of(asked("When?"), agent="desk").tenant == "t1"
    assert key_of(asked("When?"), agent="desk", scope="all").tenant is None
    assert Cache(ttl_s=1).scope == "agent"


def test_names_that_run_together_are_kept_apart() -> None:
    assert digest(asked("When?"), tenant="a", agent="bc") != digest(asked("When?"), tenant="ab", agent="c")


def test_a_run_without_a_user_shares_nothing_by_user() -> None:
    assert cache_key(asked("When?"), "smart", Cache(ttl_s=1, scope="user"), Asker("t1", "desk", None)) is None


def test_what_must_be_the_same_for_the_meaning_to_decide() -> None:
    frame = key_of(asked("When does W17 come?"), agent="desk").frame
    assert frame is not None
    assert key_of(asked("On which day will w17 be here?"), agent="desk").frame == frame
    assert key_of(asked("On which day will W18 be here?"), agent="desk").frame != frame
    assert key_of(asked("When does W17 come?", tools=(FIND,)), agent="desk").frame != frame
    assert key_of(asked("When does W17 come?"), agent="desk", tenant="t2").frame != frame
    assert key_of(asked("Hello", "When does W17 come?"), agent="desk").frame != frame


def test_numbers_in_another_order_are_another_matter() -> None:
    assert key_of(asked("Move 3 to 7"), agent="desk").frame != key_of(asked("Move 7 to 3"), agent="desk").frame


def test_only_what_a_user_has_said_is_compared_by_its_meaning() -> None:
    assert key_of(conversation(), agent="desk").frame is None
