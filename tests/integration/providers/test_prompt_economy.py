"""The provider's prompt cache is used by default, and its discount shows in the cost, through the real SDKs."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from activities.inference import pricing
from activities.inference.providers.catalog import Dialect, ProviderSettings, open_provider
from activities.inference.providers.protocol import Provider
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts.messages import Message, ModelRequest, Role, ToolSchema, Usage

MakeRequest = Callable[..., ModelRequest]
PRICED = {Dialect.OPENAI: ("openai", "gpt-5-mini"), Dialect.ANTHROPIC: ("anthropic", "claude-haiku-4-5")}
START = (Message(role=Role.SYSTEM, text="You help customers."), Message(role=Role.USER, text="Look at all of this. " * 400))
STEPS = 4


def one_call(request: SimulatedRequest) -> SimulatedAnswer:
    return SimulatedAnswer(calls=(("find_order", {"order_id": f"W{len(request.messages)}"}),))


async def steps(provider: Provider, make_request: MakeRequest, tool: ToolSchema) -> list[Usage]:
    """The usage of each step of a run whose conversation grows."""
    conversation, used = START, []
    for step in range(STEPS):
        response = await provider.complete(
            make_request(messages=conversation, tools=(tool,), idempotency_key=f"run:{step}"), lambda _: None
        )
        used.append(response.usage)
        answered = Message(role=Role.ASSISTANT, text=response.text, tool_calls=response.tool_calls)
        results = (Message(role=Role.TOOL, call_id=call.call_id, text="on its way") for call in response.tool_calls)
        conversation = (*conversation, answered, *results)
    return used


def cost(dialect: Dialect, used: list[Usage], *, discounted: bool = True) -> Decimal:
    plain = {} if discounted else {"cached_input_tokens": 0, "cache_write_tokens": 0}
    return sum((pricing.charge(*PRICED[dialect], each.model_copy(update=plain), None).cost_usd for each in used), Decimal(0))


async def test_each_step_reads_what_the_one_before_has_sent_and_costs_less_for_it(
    sim: SimulatedProvider, dialect: Dialect, provider: Provider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    sim.answerer.policy = one_call
    used = await steps(provider, make_request, find_order)
    assert used == [entry.usage for entry in sim.journal()]
    assert used[0].cached_input_tokens == 0
    for before, now in pairwise(used):
        rounded = 128 if dialect is Dialect.OPENAI else 0
        assert before.input_tokens - rounded <= now.cached_input_tokens <= before.input_tokens
    assert cost(dialect, used) < cost(dialect, used, discounted=False) * Decimal("0.6")
    if dialect is Dialect.ANTHROPIC:
        assert used[0].cache_write_tokens == used[0].input_tokens, "the first step pays for the writing"
        assert cost(dialect, used[:1]) > cost(dialect, used[:1], discounted=False)


async def test_switched_off_nothing_is_written_to_the_cache(
    sim: SimulatedProvider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    sim.answerer.policy = one_call
    settings = ProviderSettings(
        name="p", dialect=Dialect.ANTHROPIC, base_url=sim.anthropic_url, api_key=SecretStr("k" * 20), prompt_cache=False
    )
    provider = open_provider(settings)
    used = await steps(provider, make_request, find_order)
    await provider.aclose()
    assert [(each.cached_input_tokens, each.cache_write_tokens) for each in used] == [(0, 0)] * STEPS


@pytest.mark.parametrize("marked", [4, 5])
async def test_the_simulated_provider_refuses_a_fifth_mark_as_the_real_one_does(marked: int, sim: SimulatedProvider) -> None:
    mark: dict[str, Any] = {"cache_control": {"type": "ephemeral"}}
    content = [{"type": "text", "text": "hi", **mark} for _ in range(marked)]
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
    async with aiohttp.ClientSession() as http, http.post(f"{sim.url}/v1/messages", json=body, headers={"x-api-key": "k"}) as answer:
        assert answer.status == (200 if marked == 4 else 400)
