"""What the simulated provider writes is what the adapters read, wherever the network cuts it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from itertools import pairwise

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.inference.providers.chat_stream import ChatGathering
from activities.inference.providers.connection import Gathering, StreamedError, read_stream
from activities.inference.providers.messages_stream import MessagesGathering
from devstack.simulated_provider.anthropic_dialect import AnthropicDialect
from devstack.simulated_provider.dialect import Dialect, Planned
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.openai_dialect import OpenAIDialect
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, Message, ModelRequest, ModelResponse, Role, ToolCall, Usage

REQUEST = ModelRequest(model="m", messages=(Message(role=Role.USER, text="hi"),), max_output_tokens=10, idempotency_key="r/1")
DIALECTS: list[tuple[Dialect, Callable[[ModelRequest], Gathering]]] = [
    (OpenAIDialect(), ChatGathering),
    (AnthropicDialect(), MessagesGathering),
]
both_dialects = pytest.mark.parametrize(("dialect", "gather"), DIALECTS, ids=["openai", "anthropic"])

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=120)
arguments = st.dictionaries(st.text(st.characters(codec="ascii"), max_size=8), texts, max_size=3).map(json.dumps)
calls = st.lists(st.tuples(st.sampled_from(["find", "refund"]), arguments), max_size=4)


def planned(text: str, named: list[tuple[str, str]]) -> Planned:
    return Planned(
        request_id="sim-req-1",
        model="m",
        text=text,
        calls=tuple(ToolCall(call_id=f"c{at}", name=name, arguments=given) for at, (name, given) in enumerate(named)),
        finish=FinishReason.TOOL_CALLS if named else FinishReason.STOP,
        usage=Usage(input_tokens=50, cached_input_tokens=8, output_tokens=7),
    )


def response_of(chunks: list[bytes], kind: str = "text/event-stream", broken: bool = False) -> httpx2.Response:
    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if broken:
            raise httpx2.ReadError("peer closed connection")

    return httpx2.Response(200, headers={"content-type": kind}, content=stream())


async def read(gathering: Gathering, response: httpx2.Response) -> ModelResponse:
    await read_stream("p", response, gathering, lambda _: None)
    return gathering.response(request_id=None, simulated=True)


async def outcome(gathering: Gathering, response: httpx2.Response) -> tuple[ModelResponse | None, StepError | None]:
    try:
        return await read(gathering, response), None
    except StepError as error:
        return None, error


@both_dialects
@settings(deadline=None)
@given(text=texts, named=calls, data=st.data())
def test_an_answer_is_the_same_wherever_it_is_cut(
    dialect: Dialect, gather: Callable[[ModelRequest], Gathering], text: str, named: list[tuple[str, str]], data: st.DataObject
) -> None:
    plan = planned(text, named)
    wire = b"".join(dialect.frames(plan, include_usage=True))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    chunks = [wire[start:stop] for start, stop in pairwise([0, *cuts, len(wire)])]
    answer = asyncio.run(read(gather(REQUEST), response_of(chunks)))
    assert (answer.text, answer.tool_calls, answer.finish, answer.usage) == (plan.text, plan.calls, plan.finish, plan.usage)


@both_dialects
@settings(deadline=None)
@given(named=calls, kept=st.integers(0, 100))
def test_a_stream_is_whole_or_an_error_never_half_an_answer(
    dialect: Dialect, gather: Callable[[ModelRequest], Gathering], named: list[tuple[str, str]], kept: int
) -> None:
    plan = planned("some text that takes several events to send", named)
    frames = dialect.frames(plan, include_usage=True)[:kept]
    answer, error = asyncio.run(outcome(gather(REQUEST), response_of(frames)))
    if answer is None:
        assert error is not None
        assert (error.failure_class, error.code) == (FailureClass.TRANSIENT, "stream_broke_off")
    else:
        assert (answer.text, answer.tool_calls) == (plan.text, plan.calls)


@both_dialects
async def test_a_connection_that_dies_after_the_answer_loses_nothing(dialect: Dialect, gather: Callable[[ModelRequest], Gathering]) -> None:
    frames = dialect.frames(planned("paid for", []), include_usage=True)
    answer = await read(gather(REQUEST), response_of(frames[:-1], broken=True))
    assert answer.text == "paid for"


@both_dialects
async def test_a_server_that_leaves_the_connection_open_after_the_end_is_not_waited_for(
    dialect: Dialect, gather: Callable[[ModelRequest], Gathering]
) -> None:
    frames = dialect.frames(planned("all said", []), include_usage=True)

    async def stream() -> AsyncIterator[bytes]:
        yield b"".join(frames)
        await asyncio.Event().wait()

    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream())
    answer = await asyncio.wait_for(read(gather(REQUEST), response), 5)
    assert answer.text == "all said"


@both_dialects
async def test_a_connection_that_dies_before_the_end_is_an_error(dialect: Dialect, gather: Callable[[ModelRequest], Gathering]) -> None:
    frames = dialect.frames(planned("half", []), include_usage=True)
    with pytest.raises(httpx2.ReadError):
        await read(gather(REQUEST), response_of(frames[:2], broken=True))


@both_dialects
async def test_an_error_event_stops_the_reading(dialect: Dialect, gather: Callable[[ModelRequest], Gathering]) -> None:
    frame = dialect.error_frame(Fault(kind=FaultKind.OVERLOADED_IN_STREAM))
    with pytest.raises(StreamedError) as caught:
        await read(gather(REQUEST), response_of([frame]))
    assert "overloaded" in json.dumps(caught.value.body)


@both_dialects
@pytest.mark.parametrize("wrong", [b"data: {oops\n\n", b"data: [1]\n\n", b'data: {"choices": [7], "type": "content_block_delta"}\n\n'])
async def test_an_event_that_cannot_be_read_is_transient(
    wrong: bytes, dialect: Dialect, gather: Callable[[ModelRequest], Gathering]
) -> None:
    with pytest.raises(StepError) as caught:
        await read(gather(REQUEST), response_of([wrong]))
    assert (caught.value.failure_class, caught.value.code) == (FailureClass.TRANSIENT, "unreadable")


@both_dialects
@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json"])
async def test_a_page_instead_of_a_stream_asks_whether_the_url_is_right(
    kind: str, dialect: Dialect, gather: Callable[[ModelRequest], Gathering]
) -> None:
    with pytest.raises(StepError, match="base URL") as caught:
        await read(gather(REQUEST), response_of([b"<html>"], kind))
    assert caught.value.failure_class is FailureClass.CALLER
