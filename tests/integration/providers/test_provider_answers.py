"""Both adapters read what the simulated provider streams, through the real SDKs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from activities.inference.providers.catalog import Dialect
from activities.inference.providers.protocol import Progress, Provider
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.journal import Delivery
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts.messages import FinishReason, Message, ModelRequest, Role, ToolCall, ToolSchema

MakeRequest = Callable[..., ModelRequest]


async def test_text_arrives_whole_and_marked_as_simulated(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    response = await provider.complete(make_request(), lambda _: None)
    assert response.text == "Your order is on its way — 到着予定 tomorrow.\nAnything else?"
    assert response.finish is FinishReason.STOP
    assert response.simulated
    assert response.model == "simulated-1"
    (entry,) = sim.journal()
    assert response.request_id == entry.request_id
    assert response.request_id.startswith("sim-")


async def test_parallel_tool_calls_arrive_in_order_with_their_arguments(
    provider: Provider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    response = await provider.complete(make_request(tools=(find_order,)), lambda _: None)
    assert response.finish is FinishReason.TOOL_CALLS
    assert [call.name for call in response.tool_calls] == ["find_order", "find_order"]
    assert [json.loads(call.arguments)["order_id"] for call in response.tool_calls] == ["W1", "W2"]
    assert len({call.call_id for call in response.tool_calls}) == 2


async def test_the_server_understands_the_whole_conversation(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    conversation = (
        Message(role=Role.SYSTEM, text="You help customers."),
        Message(role=Role.USER, text="Where are W1 and W2?"),
        Message(
            role=Role.ASSISTANT,
            text="Looking.",
            tool_calls=(
                ToolCall(call_id="a", name="find_order", arguments='{"order_id": "W1"}'),
                ToolCall(call_id="b", name="find_order", arguments='{"order_id": "W2"}'),
            ),
        ),
        Message(role=Role.TOOL, call_id="a", text="on its way"),
        Message(role=Role.TOOL, call_id="b", text="no such order", is_error=True),
    )
    seen = []
    answer = sim.answerer.policy
    sim.answerer.policy = lambda request: (seen.append(request), answer(request))[1]
    await provider.complete(make_request(messages=conversation, tools=(find_order,)), lambda _: None)
    (request,) = seen
    assert request.system == "You help customers."
    assert request.messages == conversation[1:]
    assert request.tools == (find_order,)


async def test_usage_is_what_the_provider_bills(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    response = await provider.complete(make_request(), lambda _: None)
    (entry,) = sim.journal()
    assert entry.billed
    assert response.usage == entry.usage
    assert not response.usage_estimated
    assert response.usage.input_tokens > 0


async def test_cached_tokens_are_inside_the_input_tokens_whatever_the_dialect_says(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    sim.answerer.always_caches = True
    long = make_request("word " * 3000)
    first = await provider.complete(long, lambda _: None)
    second = await provider.complete(long, lambda _: None)
    assert first.usage.cached_input_tokens == 0
    assert second.usage.cached_input_tokens > 2800
    assert first.usage.input_tokens == second.usage.input_tokens > 3000


async def test_progress_is_told_for_every_event(provider: Provider, make_request: MakeRequest) -> None:
    told: list[Progress] = []
    response = await provider.complete(make_request(), told.append)
    assert [progress.events for progress in told] == list(range(1, len(told) + 1))
    assert told[-1].output_chars == len(response.text)
    assert len(told) > 3


async def test_a_silent_stream_shows_no_progress_and_can_be_cancelled(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    sim.add_fault(Fault(kind=FaultKind.STREAM_STOPS, after_events=3))
    third = asyncio.Event()
    told: list[Progress] = []

    def on_progress(progress: Progress) -> None:
        told.append(progress)
        if progress.events == 3:
            third.set()

    call = asyncio.create_task(provider.complete(make_request(), on_progress))
    await asyncio.wait_for(third.wait(), 5)
    assert not call.done()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 5)
    assert sim.fired("stream_stops") == 1
    assert len(told) == 3
    await asyncio.wait_for(sim.idle(), 5)
    (entry,) = sim.journal()
    assert (entry.delivery, entry.billed) == (Delivery.CLIENT_GONE, True)


async def test_the_idempotency_key_reaches_the_provider_as_it_is(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    await provider.complete(make_request(idempotency_key="Bestellung-ü 100%/1"), lambda _: None)
    assert sim.journal()[0].idempotency_key == "Bestellung-ü 100%/1"


async def test_an_output_schema_reaches_the_model(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    schema = {
        "type": "object",
        "properties": {"refund": {"type": "boolean"}},
        "required": ["refund"],
        "additionalProperties": False,
    }
    seen = []
    answer = sim.answerer.policy
    sim.answerer.policy = lambda request: (seen.append(request), answer(request))[1]
    await provider.complete(make_request(output_schema=schema), lambda _: None)
    assert seen[0].output_schema == schema


async def test_arguments_that_nobody_can_parse_do_not_break_the_next_request(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    conversation = (
        Message(role=Role.USER, text="Where is W1?"),
        Message(role=Role.ASSISTANT, tool_calls=(ToolCall(call_id="a", name="find_order", arguments='{"order_id": ,]'),)),
        Message(role=Role.TOOL, call_id="a", text="the arguments are not JSON", is_error=True),
    )
    seen = []
    answer = sim.answerer.policy
    sim.answerer.policy = lambda request: (seen.append(request), answer(request))[1]
    await provider.complete(make_request(messages=conversation), lambda _: None)
    sent = seen[0].messages[1].tool_calls[0].arguments
    assert json.loads(sent) == {"unparsable_arguments": '{"order_id": ,]'}


async def test_a_slow_answer_comes_bit_by_bit(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    sim.latency["*"] = Latency(first_token_s=0.05, per_token_s=0.01)
    moments: list[float] = []
    loop = asyncio.get_running_loop()
    await provider.complete(make_request(), lambda _: moments.append(loop.time()))
    assert moments[-1] - moments[0] >= 0.05


async def test_many_calls_at_once_are_each_answered_once(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    keys = [f"run-{number}/1" for number in range(60)]
    responses = await asyncio.gather(*(provider.complete(make_request(idempotency_key=key), lambda _: None) for key in keys))
    assert len({response.request_id for response in responses}) == 60
    assert sorted(entry.idempotency_key or "" for entry in sim.journal()) == sorted(keys)


async def test_a_proxy_from_the_environment_is_not_asked_for_servers_on_this_machine(
    sim: SimulatedProvider,
    dialect: Dialect,
    connect: Callable[..., Provider],
    make_request: MakeRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert (await connect(sim, dialect).complete(make_request(), lambda _: None)).text


SPANS = """
import asyncio, sys
import anthropic
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import SecretStr
from activities.inference.providers.anthropic_messages import AnthropicMessages
from devstack.simulated_provider.server import simulated_provider
from workflows.contracts.messages import Message, ModelRequest, Role

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
request = ModelRequest(
    model="m", messages=(Message(role=Role.USER, text="hi"),), max_output_tokens=100, idempotency_key="r/1"
)

async def main():
    async with simulated_provider() as sim:
        ours = AnthropicMessages.connect("p", SecretStr("k" * 20), sim.anthropic_url)
        await ours.complete(request, lambda _: None)
        await ours.aclose()
        print(len(exporter.get_finished_spans()))
        async with anthropic.AsyncAnthropic(api_key="k", base_url=sim.anthropic_url) as plain:
            await plain.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
        print(len(exporter.get_finished_spans()))

asyncio.run(main())
"""


async def test_the_sdks_own_spans_are_off() -> None:
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", SPANS], capture_output=True, text=True, timeout=60, check=False)
    ours, with_the_sdks_default = map(int, ended.stdout.split())
    assert ours == 0
    assert with_the_sdks_default > 0, "the SDK writes no spans by itself any more: this test shows nothing"
