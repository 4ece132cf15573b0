from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
from pydantic import SecretStr

from activities.inference.providers.catalog import Dialect, ProviderSettings, open_provider
from activities.inference.providers.protocol import Provider
from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.server import SimulatedProvider, simulated_provider
from workflows.contracts.messages import Message, ModelRequest, Role, ToolSchema

KEY = "sk-planted-0123456789abcdef0123456789"


def shop_policy(request: SimulatedRequest) -> SimulatedAnswer:
    """Answers in words; with tools, looks up two orders at once."""
    if request.tools and not any(message.role is Role.TOOL for message in request.messages):
        calls = tuple(("find_order", {"order_id": order, "note": "a “quoted” note, with ümläuts\n"}) for order in ("W1", "W2"))
        return SimulatedAnswer(text="Let me look both orders up.", calls=calls)
    return SimulatedAnswer(text="Your order is on its way — 到着予定 tomorrow.\nAnything else?")


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedProvider]:
    async with simulated_provider(shop_policy) as provider:
        yield provider


@pytest.fixture(params=list(Dialect))
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return Dialect(request.param)


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Provider]]:
    """Opens providers against a simulated server, and closes them at the end."""
    async with AsyncExitStack() as stack:

        def connect_to(sim: SimulatedProvider, dialect: Dialect, key: str = KEY) -> Provider:
            url = sim.openai_url if dialect is Dialect.OPENAI else sim.anthropic_url
            settings = ProviderSettings(name=dialect.value, dialect=dialect, base_url=url, api_key=SecretStr(key))
            provider = open_provider(settings)
            stack.push_async_callback(provider.aclose)
            return provider

        yield connect_to


@pytest.fixture
def provider(sim: SimulatedProvider, dialect: Dialect, connect: Callable[..., Provider]) -> Provider:
    return connect(sim, dialect)


FIND_ORDER = ToolSchema(
    name="find_order",
    description="Finds an order.",
    parameters={"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
)


@pytest.fixture
def make_request() -> Callable[..., ModelRequest]:
    def build(text: str = "Where is my order?", **changes: object) -> ModelRequest:
        fields: dict[str, object] = {
            "model": "simulated-1",
            "messages": (Message(role=Role.SYSTEM, text="You help customers."), Message(role=Role.USER, text=text)),
            "max_output_tokens": 500,
            "idempotency_key": "run-1/3",
        }
        return ModelRequest.model_validate(fields | changes)

    return build


@pytest.fixture
def find_order() -> ToolSchema:
    return FIND_ORDER
