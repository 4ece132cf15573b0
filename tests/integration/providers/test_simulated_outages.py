"""The simulated provider in bad times: outages, keys of several accounts, limits that are lowered while calls go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest

from activities.inference.providers.catalog import Dialect
from activities.inference.providers.protocol import Provider
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.limits import Limits
from devstack.simulated_provider.outage import Outage
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import ModelRequest

MakeRequest = Callable[..., ModelRequest]
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:
        yield session


async def test_an_outage_fails_every_call_until_it_is_ended(sim: SimulatedProvider, http: aiohttp.ClientSession) -> None:
    control = f"{sim.url}/control/outage"

    async def statuses() -> list[int]:
        found = []
        for model in ("m", "other"):
            async with http.post(f"{sim.openai_url}/chat/completions", json=CHAT | {"model": model}) as answer:
                found.append(answer.status)
                assert "retry-after" not in answer.headers
        return found

    async with http.put(control, json={"kind": "unavailable", "model": "m"}) as answer:
        assert answer.status == 204
    assert await statuses() == [503, 200]
    async with http.get(control) as answer:
        assert (await answer.json())["refused"] == 1
    async with http.delete(control) as answer:
        assert answer.status == 204
    assert await statuses() == [200, 200]
    assert [entry.fault for entry in sim.journal()] == ["outage", None, None, None]


async def test_in_the_worst_outage_nobody_can_connect_and_afterwards_everybody(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest, http: aiohttp.ClientSession
) -> None:
    await provider.complete(make_request(), lambda _: None)  # a connection is open now, and is closed
    async with http.put(f"{sim.url}/control/outage", json={"kind": "unreachable"}) as answer:
        assert answer.status == 422
    await sim.begin_outage(Outage(kind="unreachable"))
    errors = []
    for _ in range(2):  # the first may still go out on the connection that is being closed
        with pytest.raises(StepError) as caught:
            await provider.complete(make_request(), lambda _: None)
        errors.append(caught.value)
    assert [error.failure_class for error in errors] == [FailureClass.TRANSIENT] * 2
    assert (errors[1].code, errors[1].spend_unknown) == ("unreachable", False)
    await sim.end_outage()
    await provider.complete(make_request(), lambda _: None)
    assert len(sim.journal()) == 2


async def test_an_outage_with_an_end_ends_by_itself(sim: SimulatedProvider, http: aiohttp.ClientSession) -> None:
    async with http.put(f"{sim.url}/control/outage", json={"kind": "unreachable", "for_s": 0.2}) as answer:
        assert answer.status == 204
    refused = 0
    async with asyncio.timeout(10):
        while True:
            try:
                async with http.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
                    assert answer.status == 200
                    break
            except aiohttp.ClientConnectionError as error:
                refused += isinstance(error, aiohttp.ClientConnectorError)
                await asyncio.sleep(0.01)
    assert refused > 0


async def test_the_journal_names_a_key_by_its_end_and_faults_and_limits_can_be_for_one_key(
    sim: SimulatedProvider, dialect: Dialect, connect: Callable[..., Provider], make_request: MakeRequest
) -> None:
    sim.change_limits({"key:*": Limits(requests_per_minute=1)})
    sim.add_fault(Fault(kind=FaultKind.QUOTA, key="poor"))
    one, other, poor = (connect(sim, dialect, f"sk-planted-0123456789-{end}") for end in ("aaaa", "bbbb", "poor"))
    await one.complete(make_request(), lambda _: None)
    await other.complete(make_request(), lambda _: None)
    for provider, failure in ((one, FailureClass.THROTTLED), (poor, FailureClass.QUOTA)):
        with pytest.raises(StepError) as caught:
            await provider.complete(make_request(), lambda _: None)
        assert caught.value.failure_class is failure
    assert [entry.key for entry in sim.journal()] == ["aaaa", "bbbb", "aaaa", "poor"]
    assert sim.fired("quota") == 1


async def test_limits_can_be_lowered_later_and_tell_what_they_let_through(sim: SimulatedProvider, http: aiohttp.ClientSession) -> None:
    control = f"{sim.url}/control/limits"
    async with http.put(control, json={"account": {"requests_per_minute": 100, "mode": "window"}}) as answer:
        assert answer.status == 204
    async with http.put(control, params={"after_s": "0.05"}, json={"account": {"requests_per_minute": 1, "mode": "window"}}) as answer:
        assert answer.status == 204
    async with http.put(control, params={"after_s": "soon"}, json={}) as answer:
        assert answer.status == 422
    async with asyncio.timeout(10):
        while True:
            async with http.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
                if answer.status == 429:
                    break
    async with http.get(control) as answer:
        (told,) = await answer.json()
    assert (told["of"], told["kind"], told["per_minute"], told["refused"]) == ("account", "requests", 1, 1)
    assert told["used"] == len(sim.journal()) - 1


async def test_calls_at_once_are_limited_and_free_their_place(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    sim.change_limits({"account": Limits(concurrency=3)})
    sim.latency["*"] = Latency(first_token_s=0.2)
    ended = await asyncio.gather(*(provider.complete(make_request(), lambda _: None) for _ in range(5)), return_exceptions=True)
    refused = [error for error in ended if isinstance(error, StepError)]
    assert [error.failure_class for error in refused] == [FailureClass.THROTTLED] * 2
    await provider.complete(make_request(), lambda _: None)


async def test_accepted_keys_can_be_changed_while_it_runs(sim: SimulatedProvider, http: aiohttp.ClientSession) -> None:
    for keys, status in ((["other"], 401), (["k"], 200), (None, 200)):
        async with http.put(f"{sim.url}/control/keys", data=json.dumps(keys)) as answer:
            assert answer.status == 204
        async with http.post(f"{sim.openai_url}/chat/completions", json=CHAT) as answer:
            assert answer.status == status
