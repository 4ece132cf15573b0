from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from activities.inference.providers import anthropic_messages, openai_chat
from activities.inference.providers.wire import arguments_text, fits_strict
from workflows.contracts.messages import Message, ModelRequest, Role, ToolCall, ToolSchema

CONVERSATION = (
    Message(role=Role.SYSTEM, text="Be kind."),
    Message(role=Role.USER, text="Where are my orders?"),
    Message(role=Role.USER, text="W1 and W2."),
    Message(
        role=Role.ASSISTANT,
        text="Looking. ",
        tool_calls=(ToolCall(call_id="a", name="find", arguments='{"id": "W1"}'), ToolCall(call_id="b", name="find", arguments="")),
    ),
    Message(role=Role.TOOL, call_id="a", text="found"),
    Message(role=Role.TOOL, call_id="b", text="which one?", is_error=True),
    Message(role=Role.USER, text="Well?"),
)


def request(**changes: Any) -> ModelRequest:
    fields: dict[str, Any] = {"model": "m", "messages": CONVERSATION, "max_output_tokens": 99, "idempotency_key": "r/1"}
    return ModelRequest(**fields | changes)


def test_openai_keeps_every_message_and_asks_for_usage() -> None:
    body = openai_chat.body_of(request(), "max_completion_tokens")
    assert [message["role"] for message in body["messages"]] == ["system", "user", "user", "assistant", "tool", "tool", "user"]
    assert body["messages"][5]["content"] == "Error: which one?"
    assert [call["function"]["arguments"] for call in body["messages"][3]["tool_calls"]] == ['{"id": "W1"}', "{}"]
    assert body["stream_options"] == {"include_usage": True}
    assert body["max_completion_tokens"] == 99
    assert "temperature" not in body
    assert "tools" not in body


def test_anthropic_takes_the_system_text_apart_and_joins_turns_of_one_side() -> None:
    body = anthropic_messages.body_of(request())
    assert body["system"] == "Be kind."
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    asked, called, results = (turn["content"] for turn in body["messages"])
    assert [block["text"] for block in asked] == ["Where are my orders?", "W1 and W2."]
    assert [block["type"] for block in called] == ["text", "tool_use", "tool_use"]
    assert called[0]["text"] == "Looking."
    assert [block.get("input") for block in called[1:]] == [{"id": "W1"}, {}]
    assert [block["type"] for block in results] == ["tool_result", "tool_result", "text"]
    assert [block.get("is_error") for block in results[:2]] == [None, True]


def test_anthropic_puts_results_before_text_whatever_their_order_was() -> None:
    messages = (*CONVERSATION[:4], Message(role=Role.USER, text="also"), *CONVERSATION[4:6])
    content = anthropic_messages.body_of(request(messages=messages))["messages"][-1]["content"]
    assert [block["type"] for block in content] == ["tool_result", "tool_result", "text"]


def test_anthropic_never_sends_an_empty_message() -> None:
    body = anthropic_messages.body_of(request(messages=(Message(role=Role.USER, text="  "),)))
    assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "(no text)"}]}]


def test_a_schema_for_the_answer_goes_where_each_dialect_wants_it() -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    openai_format = openai_chat.body_of(request(output_schema=schema), "max_tokens")["response_format"]
    assert openai_format["json_schema"] == {"name": "answer", "schema": schema, "strict": False}
    anthropic_format = anthropic_messages.body_of(request(output_schema=schema))["output_config"]["format"]
    assert anthropic_format["schema"] == schema | {"additionalProperties": False}
    assert "additionalProperties" not in schema, "the definition's own schema is left as it was"


def test_tools_and_temperature_are_sent_when_given() -> None:
    tool = ToolSchema(name="find", description="Finds.", parameters={"type": "object"})
    asked = request(tools=(tool,), temperature=0.2)
    assert openai_chat.body_of(asked, "max_tokens")["tools"][0]["function"]["name"] == "find"
    assert anthropic_messages.body_of(asked)["tools"] == [{"name": "find", "description": "Finds.", "input_schema": {"type": "object"}}]
    assert openai_chat.body_of(asked, "max_tokens")["temperature"] == anthropic_messages.body_of(asked)["temperature"] == 0.2


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": [], "additionalProperties": False}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"type": "string"}, True),
    ],
)
def test_strict_mode_is_asked_for_only_where_the_schema_allows_it(schema: dict[str, Any], strict: bool) -> None:
    assert fits_strict(schema) is strict


@pytest.mark.parametrize("raw", ["{", "[1]", "null", "not json", '"text"', "\ud800"])
def test_arguments_that_are_no_object_are_wrapped(raw: str) -> None:
    assert json.loads(arguments_text(raw)) == {"unparsable_arguments": raw}


@pytest.mark.parametrize("raw", ['{"a":  1}', '{"unparsable": 1}'])
def test_arguments_that_are_an_object_stay_byte_for_byte(raw: str) -> None:
    assert arguments_text(raw) == raw


@pytest.mark.parametrize(
    ("base_url", "limit"),
    [
        (None, "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://eu.api.openai.com/v1", "max_completion_tokens"),
        ("http://localhost:11434/v1", "max_tokens"),
        ("https://openai.com.example.org/v1", "max_tokens"),
    ],
)
async def test_the_output_limit_is_called_what_the_server_knows(base_url: str | None, limit: str) -> None:
    provider = openai_chat.OpenAIChat.connect("p", SecretStr("k" * 20), base_url)
    assert provider._output_limit == limit
    await provider.aclose()
