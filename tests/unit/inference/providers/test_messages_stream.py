from __future__ import annotations

from typing import Any

from activities.inference.providers.messages_stream import MessagesGathering
from workflows.contracts.messages import FinishReason, Message, ModelRequest, ModelResponse, Role, Usage

REQUEST = ModelRequest(model="asked", messages=(Message(role=Role.USER, text="hi"),), max_output_tokens=10, idempotency_key="r/1")


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


def start(**usage: int | None) -> dict[str, Any]:
    return event("message_start", message={"id": "msg_1", "model": "answered", "usage": usage})


def stop(reason: str, **usage: int) -> dict[str, Any]:
    return event("message_delta", delta={"stop_reason": reason}, usage=usage)


def tool(index: int, given: dict[str, Any], *pieces: str) -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": f"t{index}", "name": "find", "input": given}
    deltas = [event("content_block_delta", index=index, delta={"type": "input_json_delta", "partial_json": p}) for p in pieces]
    return [event("content_block_start", index=index, content_block=block), *deltas]


def gathered(*events: dict[str, Any]) -> ModelResponse:
    gathering = MessagesGathering(REQUEST)
    for one in events:
        gathering.add(one)
    assert gathering.finished
    return gathering.response(request_id=None, simulated=False)


def test_cached_and_written_tokens_are_counted_into_the_input() -> None:
    response = gathered(
        start(input_tokens=10, cache_read_input_tokens=1000, cache_creation_input_tokens=200, output_tokens=1),
        stop("end_turn", output_tokens=42),
    )
    assert response.usage == Usage(input_tokens=1210, cached_input_tokens=1000, cache_write_tokens=200, output_tokens=42)


def test_the_last_running_total_counts_and_null_changes_nothing() -> None:
    response = gathered(
        start(input_tokens=10, cache_read_input_tokens=None, output_tokens=1), stop("end_turn", input_tokens=12, output_tokens=5)
    )
    assert response.usage == Usage(input_tokens=12, output_tokens=5)


def test_parallel_calls_keep_their_pieces() -> None:
    response = gathered(start(), *tool(1, {}, '{"a"', ": 1}"), *tool(2, {}), *tool(3, {"given": True}), stop("tool_use"))
    assert [(call.call_id, call.arguments) for call in response.tool_calls] == [
        ("t1", '{"a": 1}'),
        ("t2", "{}"),
        ("t3", '{"given": true}'),
    ]


def test_thinking_and_pings_are_signs_of_life_and_no_text() -> None:
    response = gathered(
        start(input_tokens=1, output_tokens=1),
        event("ping"),
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""}),
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hmm"}),
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "x"}),
        event("content_block_start", index=1, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=1, delta={"type": "text_delta", "text": "Hello"}),
        stop("end_turn", output_tokens=3),
        event("message_stop"),
    )
    assert (response.text, response.tool_calls) == ("Hello", ())


def test_every_reason_to_stop_has_its_meaning() -> None:
    reasons = {
        "end_turn": FinishReason.STOP,
        "stop_sequence": FinishReason.STOP,
        "tool_use": FinishReason.TOOL_CALLS,
        "max_tokens": FinishReason.LENGTH,
        "model_context_window_exceeded": FinishReason.LENGTH,
        "refusal": FinishReason.REFUSAL,
        "a_new_one": FinishReason.STOP,
    }
    assert {reason: gathered(start(), stop(reason)).finish for reason in reasons} == reasons
