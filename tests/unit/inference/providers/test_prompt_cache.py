"""Where requests are marked for the provider's prompt cache."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.inference.providers import anthropic_messages, openai_chat
from workflows.contracts.messages import Message, ModelRequest, Role, ToolCall, ToolSchema

LONG = "word " * 1_200
TOOL = ToolSchema(name="find", description="Finds an order.", parameters={"type": "object"})


def said(role: Role, text: str, **more: Any) -> Message:
    return Message(role=role, text=text, **more)


def conversation(steps: int, text: str = LONG) -> tuple[Message, ...]:
    messages = [said(Role.SYSTEM, "Be kind."), said(Role.USER, text)]
    for step in range(steps):
        call = ToolCall(call_id=f"c{step}", name="find", arguments="{}")
        messages += [said(Role.ASSISTANT, "", tool_calls=(call,)), said(Role.TOOL, "found", call_id=call.call_id)]
    return tuple(messages)


def body(messages: tuple[Message, ...], tools: tuple[ToolSchema, ...] = (TOOL,), *, prompt_cache: bool = True) -> dict[str, Any]:
    request = ModelRequest(model="m", messages=messages, tools=tools, max_output_tokens=9, idempotency_key="run:1")
    return anthropic_messages.body_of(request, prompt_cache=prompt_cache)


def marks(body: dict[str, Any]) -> list[str]:
    """Where the marks are, in the order in which the provider reads."""
    found = [f"tool {at}" for at, tool in enumerate(body.get("tools", ())) if "cache_control" in tool]
    found += ["system"] if isinstance(body.get("system"), list) and "cache_control" in body["system"][0] else []
    return found + [
        f"{at}.{place}"
        for at, turn in enumerate(body["messages"])
        for place, block in enumerate(turn["content"])
        if "cache_control" in block
    ]


def test_the_end_of_the_conversation_is_marked_and_moves_with_it() -> None:
    assert marks(body(conversation(0))) == ["0.0"]
    assert marks(body(conversation(1))) == ["0.0", "2.0"]
    assert marks(body(conversation(2))) == ["2.0", "4.0"]


def test_long_tools_and_instructions_are_marked_as_all_runs_share_them() -> None:
    tools = tuple(TOOL.model_copy(update={"name": f"find_{number}", "description": LONG}) for number in range(3))
    messages = (said(Role.SYSTEM, LONG), *conversation(2)[1:])
    assert marks(body(messages, tools)) == ["tool 2", "system", "2.0", "4.0"]


def test_a_request_that_is_too_short_is_written_as_without_a_cache() -> None:
    short = conversation(2, "Where is W1?")
    assert body(short) == body(short, prompt_cache=False)


def test_a_question_that_no_other_call_will_repeat_is_not_marked() -> None:
    asked_once = (said(Role.SYSTEM, LONG), said(Role.USER, LONG))
    assert marks(body(asked_once, ())) == ["system"]


def test_the_cache_can_be_switched_off() -> None:
    assert "cache_control" not in json.dumps(body(conversation(3), prompt_cache=False))


@given(st.integers(0, 12), st.booleans(), st.booleans(), st.sampled_from(["", "hi", LONG]))
def test_there_are_never_more_than_four_marks_and_none_on_an_empty_text(steps: int, tools: bool, system: bool, text: str) -> None:
    messages = conversation(steps, text)[0 if system else 1 :]
    written = body(messages, (TOOL,) if tools else ())
    assert len(marks(written)) <= 4
    assert all(block.get("text") != "" for turn in written["messages"] for block in turn["content"])


def test_what_stands_before_a_mark_is_the_same_in_the_next_step() -> None:
    def bare(value: Any) -> str:
        return json.dumps(value).replace(', "cache_control": {"type": "ephemeral"}', "")

    now, then = body(conversation(3)), body(conversation(4))
    assert bare(now["tools"]) == bare(then["tools"])
    assert bare(now["messages"]) == bare(then["messages"][: len(now["messages"])])


@pytest.mark.parametrize(("base_url", "named"), [(None, True), ("http://localhost:1/v1", False), ("https://x.openai.azure.com/v1", False)])
def test_only_openais_own_servers_are_told_the_run_and_only_hashed(base_url: str | None, named: bool) -> None:
    request = ModelRequest(model="m", messages=(), max_output_tokens=9, idempotency_key="customer-ann-smith:4")
    assert openai_chat.names_the_run(base_url) is named
    key = openai_chat.cache_name(request)["prompt_cache_key"]
    assert len(key) <= 64
    assert "ann" not in key
    assert openai_chat.cache_name(request.model_copy(update={"idempotency_key": "customer-ann-smith:5"}))["prompt_cache_key"] == key
    assert openai_chat.cache_name(request.model_copy(update={"idempotency_key": "another:4"}))["prompt_cache_key"] != key
    assert openai_chat.cache_name(request.model_copy(update={"idempotency_key": "no-step"})) == {}
