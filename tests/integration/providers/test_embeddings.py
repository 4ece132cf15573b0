"""Embeddings through the real openai SDK: what is asked, what comes back, what failures mean."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from pydantic import SecretStr

from activities.inference.providers.embedding import Embeds
from activities.inference.providers.openai_chat import OpenAIChat
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.limits import Limits
from devstack.simulated_provider.server import SimulatedProvider, simulated_provider
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import Usage

MODEL = "text-embedding-3-small"


@pytest.fixture
async def simulated() -> AsyncIterator[SimulatedProvider]:
    async with simulated_provider() as opened:
        yield opened


@pytest.fixture
async def provider(simulated: SimulatedProvider) -> AsyncIterator[OpenAIChat]:
    opened = OpenAIChat.connect("sim", SecretStr("sk-test-1234"), simulated.openai_url)
    yield opened
    await opened.aclose()


def cosine(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


async def test_texts_become_vectors_in_their_order_near_where_they_are_alike_and_marked_as_simulated(
    provider: OpenAIChat, simulated: SimulatedProvider
) -> None:
    assert isinstance(provider, Embeds)
    texts = ("How long does the delivery take?", "How long does delivery take?", "Can I pay by invoice?")
    told = await provider.embedder(MODEL, None).embed(texts, "run:1")
    first, second, third = told.vectors
    assert cosine(first, second) > 0.85 > 0.3 > abs(cosine(first, third))
    (entry,) = simulated.journal()
    assert (told.simulated, told.request_id, told.usage) == (True, entry.request_id, entry.usage)
    assert (entry.model, entry.idempotency_key, entry.billed, entry.usage) == (MODEL, "run:1", True, Usage(input_tokens=22))
    again = await provider.embedder(MODEL, None).embed(texts[:1], "run:1")
    assert again.vectors == (first,)


async def test_a_length_that_is_asked_for_is_given(provider: OpenAIChat) -> None:
    told = await provider.embedder(MODEL, 32).embed(["one text"], "k")
    assert [len(vector) for vector in told.vectors] == [32]


@pytest.mark.parametrize(
    ("kind", "meant"),
    [
        (FaultKind.SERVER_ERROR, FailureClass.TRANSIENT),
        (FaultKind.QUOTA, FailureClass.QUOTA),
        (FaultKind.BAD_KEY, FailureClass.CALLER),
        (FaultKind.RATE_LIMITED, FailureClass.THROTTLED),
    ],
)
async def test_failures_have_the_class_of_any_other_call_and_are_tried_once(
    provider: OpenAIChat, simulated: SimulatedProvider, kind: FaultKind, meant: FailureClass
) -> None:
    simulated.add_fault(Fault(kind=kind, name="fails"))
    with pytest.raises(StepError) as raised:
        await provider.embedder(MODEL, None).embed(["one text"], "k")
    assert (raised.value.failure_class, simulated.fired("fails")) == (meant, 1)


async def test_the_simulated_provider_holds_embeddings_to_its_limits_and_tells_them(
    provider: OpenAIChat, simulated: SimulatedProvider
) -> None:
    simulated.change_limits({MODEL: Limits(requests_per_minute=1)})
    told = await provider.embedder(MODEL, None).embed(["one text"], "k")
    assert [(each.limit, each.remaining) for each in told.told] == [(1, 0)]
    with pytest.raises(StepError) as raised:
        await provider.embedder(MODEL, None).embed(["one text"], "k")
    assert raised.value.failure_class is FailureClass.THROTTLED


@pytest.mark.parametrize("vector", [[0.0, 0.0], [], [1.0, "nan"]], ids=["no direction", "empty", "no number"])
async def test_a_vector_that_means_nothing_is_an_unreadable_answer(vector: list[object]) -> None:
    async def answer(_request: web.Request) -> web.Response:
        data = [{"object": "embedding", "index": 0, "embedding": vector}]
        return web.json_response({"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": 2, "total_tokens": 2}})

    app = web.Application()
    app.router.add_post("/v1/embeddings", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider = OpenAIChat.connect("odd", SecretStr("sk-test-1234"), f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    try:
        with pytest.raises(StepError) as raised:
            await provider.embedder(MODEL, None).embed(["one text"], "k")
    finally:
        await provider.aclose()
        await runner.cleanup()
    assert raised.value.spend_unknown
