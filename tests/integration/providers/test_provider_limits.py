"""What the provider tells of its limits comes through the real SDKs, with answers and with refusals, in both dialects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from activities.inference.providers.catalog import Dialect
from activities.inference.providers.protocol import Provider
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.limits import Limits
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import LimitKind, ModelRequest, ToldLimit

MakeRequest = Callable[..., ModelRequest]
LIMITS = Limits(requests_per_minute=2, input_tokens_per_minute=9_000)


def by_kind(told: tuple[ToldLimit, ...]) -> dict[LimitKind, ToldLimit]:
    return {limit.kind: limit for limit in told}


async def test_an_answer_and_a_refusal_tell_what_is_left(
    sim: SimulatedProvider, dialect: Dialect, provider: Provider, make_request: MakeRequest
) -> None:
    sim.change_limits({"*": LIMITS})
    first = by_kind((await provider.complete(make_request(), lambda _: None)).told)
    assert (first[LimitKind.REQUESTS].limit, first[LimitKind.REQUESTS].remaining) == (2, 1)
    tokens = first[LimitKind.TOKENS if dialect is Dialect.OPENAI else LimitKind.INPUT_TOKENS]
    assert tokens.limit == 9_000
    assert tokens.remaining is not None
    assert 0 < tokens.remaining < 9_000

    await provider.complete(make_request(), lambda _: None)
    with pytest.raises(StepError) as caught:
        await provider.complete(make_request(), lambda _: None)
    assert caught.value.failure_class is FailureClass.THROTTLED
    refused = by_kind(caught.value.told)[LimitKind.REQUESTS]
    assert (refused.limit, refused.remaining) == (2, 0)
    assert refused.reset_s is not None
    assert 57 <= refused.reset_s <= 61


async def test_a_refusal_in_mid_stream_tells_it_too(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    sim.change_limits({"*": LIMITS})
    sim.add_fault(Fault(kind=FaultKind.RATE_LIMITED_IN_STREAM))
    with pytest.raises(StepError) as caught:
        await provider.complete(make_request(), lambda _: None)
    assert sim.fired("rate_limited_in_stream") == 1
    assert by_kind(caught.value.told)[LimitKind.REQUESTS].limit == 2


async def test_a_provider_without_limits_tells_nothing(provider: Provider, make_request: MakeRequest) -> None:
    assert (await provider.complete(make_request(), lambda _: None)).told == ()
