from __future__ import annotations

from typing import Any

from activities.inference.providers.chat_stream import ChatGathering
from workflows.contracts.messages import FinishReason, Message, ModelRequest, ModelResponse, Role, Usage

REQUEST = ModelRequest(model="asked", messages=(Message(role=Role.USER, text="x" * 400),), max_output_tokens=10, idempotency_key="r/1")


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "model": "answered", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def part(arguments: Any = None, **fields: Any) -> dict[str, Any]:
    name = fields.pop("name", None)
    return {"function": {"name": name, "arguments": arguments}, **fields}


def gathered(*chunks: dict[str, Any]) -> ModelResponse:
    gathering = ChatGathering(REQUEST)
    for one in chunks:
        gathering.add(one)
    assert gathering.finished
    return gathering.response(request_id=None, simulated=False)


def test_interleaved_parallel_calls_are_kept_apart_by_index() -> None:
    response = gathered(
        chunk(tool_calls=[part("", index=0, id="a", name="one"), part("", index=1, id="b", name="two")]),
        chunk(tool_calls=[part('{"x"', index=0)]),
        chunk(tool_calls=[part('{"y"', index=1)]),
        chunk(tool_calls=[part(":1}", index=0), part(":2}", index=1)]),
        chunk("tool_calls"),
    )
    assert [(call.call_id, call.name, call.arguments) for call in response.tool_calls] == [
        ("a", "one", '{"x":1}'),
        ("b", "two", '{"y":2}'),
    ]


def test_calls_that_all_carry_index_0_are_kept_apart_by_their_ids() -> None:
    response = gathered(
        chunk(tool_calls=[part("{}", index=0, id="a", name="one")]),
        chunk(tool_calls=[part('{"y":', index=0, id="b", name="two")]),
        chunk("tool_calls", tool_calls=[part("2}", index=0)]),
    )
    assert [(call.call_id, call.arguments) for call in response.tool_calls] == [("a", "{}"), ("b", '{"y":2}')]


def test_calls_without_an_index_or_an_id_get_one_that_is_stable() -> None:
    response = gathered(chunk("stop", tool_calls=[part({"x": 1}, name="one")]))
    (call,) = response.tool_calls
    assert (call.call_id, call.arguments) == ("call_1_0", '{"x": 1}')
    assert response.finish is FinishReason.TOOL_CALLS, "a stop with calls is a turn of calls"


def test_a_cut_off_call_is_length_and_never_a_call_to_dispatch() -> None:
    assert gathered(chunk("length", tool_calls=[part('{"x', index=0, id="a", name="n")])).finish is FinishReason.LENGTH


def test_a_refusal_is_a_refusal_whatever_the_finish_reason() -> None:
    response = gathered(chunk(refusal="I can"), chunk("stop", refusal="not."))
    assert (response.finish, response.text) == (FinishReason.REFUSAL, "I cannot.")


def test_a_content_filter_is_a_refusal() -> None:
    assert gathered(chunk("content_filter", content="half")).finish is FinishReason.REFUSAL


def test_cached_tokens_stay_inside_and_the_last_usage_counts() -> None:
    first = {"prompt_tokens": 5, "completion_tokens": 1}
    last = {"prompt_tokens": 5, "completion_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}
    response = gathered({**chunk(content="a"), "usage": first}, chunk("stop"), {"choices": [], "usage": last})
    assert response.usage == Usage(input_tokens=5, cached_input_tokens=4, output_tokens=9)
    assert not response.usage_estimated


def test_a_server_that_tells_no_usage_is_never_booked_as_free() -> None:
    response = gathered(chunk("stop", content="y" * 40))
    assert response.usage_estimated
    assert response.usage == Usage(input_tokens=100, output_tokens=10)


def test_the_model_that_answered_is_the_one_that_is_named() -> None:
    assert gathered(chunk("stop")).model == "answered"


def test_nothing_is_finished_before_the_model_says_why_it_stopped() -> None:
    gathering = ChatGathering(REQUEST)
    gathering.add(chunk(content="half an ans"))
    assert not gathering.finished
