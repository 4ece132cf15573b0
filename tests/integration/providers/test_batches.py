"""Both Batch APIs through the real SDKs: handed in, found again, read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from activities.inference.providers.batch_api import BatchApi, BatchItem, Submission, batch_api_of
from activities.inference.providers.catalog import Dialect, ProviderSettings, open_provider
from activities.inference.providers.protocol import Provider
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, ModelRequest, ToolSchema

MakeRequest = Callable[..., ModelRequest]


@pytest.fixture
def api(sim: SimulatedProvider, provider: Provider) -> BatchApi:
    provider.offer_batches()  # type: ignore[attr-defined]  # both adapters have it, the protocol need not
    found = batch_api_of(provider)
    assert found is not None
    return found


def submission(*requests: ModelRequest, batch_id: str = "hf1", others: frozenset[str] = frozenset()) -> Submission:
    items = [BatchItem(f"{batch_id}-{place}", request) for place, request in enumerate(requests)]
    return Submission(batch_id, items, datetime.now(UTC) - timedelta(seconds=5), others)


def by_id(given: Submission) -> dict[str, ModelRequest]:
    return {item.custom_id: item.request for item in given.items}


async def test_answers_are_the_same_as_those_of_ordinary_calls(
    sim: SimulatedProvider, api: BatchApi, provider: Provider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    requests = (make_request(), make_request(tools=(find_order,)))
    given = submission(*requests)
    batch = await api.submit(given)
    sim.batches.hurry()
    await sim.batches.ended()
    assert (await api.look(batch)).ended
    first, second = await api.results(batch, by_id(given))
    for result, request in zip((first, second), requests, strict=True):
        ordinary = await provider.complete(request, lambda _: None)
        assert result.response is not None
        assert (result.response.text, result.response.finish) == (ordinary.text, ordinary.finish)
        assert [(c.name, c.arguments) for c in result.response.tool_calls] == [(c.name, c.arguments) for c in ordinary.tool_calls]
        assert result.response.usage == ordinary.usage
        assert result.response.simulated
    assert second.response is not None
    assert second.response.finish is FinishReason.TOOL_CALLS
    assert [entry.batch for entry in sim.journal()] == [True, True, False, False]


async def test_a_batch_is_asked_for_until_it_ends(sim: SimulatedProvider, api: BatchApi, make_request: MakeRequest) -> None:
    sim.batches.takes_s = 600
    batch = await api.submit(submission(make_request()))
    assert not (await api.look(batch)).ended
    await api.cancel(batch)
    await sim.batches.ended()
    assert (await api.look(batch)).ended
    assert sim.journal() == ()


async def test_each_request_has_its_own_end(sim: SimulatedProvider, api: BatchApi, make_request: MakeRequest) -> None:
    sim.add_fault(Fault(kind=FaultKind.BATCH_EXPIRES, contains="late"))
    sim.add_fault(Fault(kind=FaultKind.BAD_REQUEST, contains="wrong"))
    given = submission(make_request("fine"), make_request("late"), make_request("wrong"))
    batch = await api.submit(given)
    await sim.batches.ended()
    fine, late, wrong = await api.results(batch, by_id(given))
    assert sim.fired("batch_expires") == sim.fired("bad_request") == 1
    assert fine.response is not None
    assert (late.response, late.error) == (None, None)
    assert "expired" in late.not_done
    assert wrong.error is not None
    assert wrong.error.failure_class is FailureClass.CALLER


@pytest.mark.parametrize("ended", [True, False])
async def test_a_batch_whose_acceptance_got_lost_is_found_again(
    sim: SimulatedProvider, dialect: Dialect, api: BatchApi, make_request: MakeRequest, ended: bool
) -> None:
    sim.batches.takes_s = 600
    sim.add_fault(Fault(kind=FaultKind.BATCH_ANSWER_LOST, count=1))
    lost, other = submission(make_request(), batch_id="hf1"), submission(make_request(), batch_id="hf2")
    with pytest.raises(StepError) as raised:
        await api.submit(lost)
    assert sim.fired("batch_answer_lost") == 1
    assert raised.value.spend_unknown
    known = await api.submit(other)
    if ended:
        sim.batches.hurry()
        await sim.batches.ended()
    found = await api.find(submission(make_request(), batch_id="hf1", others=frozenset({known})))
    if ended or dialect is Dialect.OPENAI:
        assert found.provider_batch_id == sim.batches.all[0].batch_id
    else:
        assert (found.provider_batch_id, found.sure) == (None, False)
    missing = await api.find(submission(make_request(), make_request(), batch_id="hf3"))
    assert (missing.provider_batch_id, missing.sure) == (None, True)


@pytest.mark.parametrize(
    ("base_url", "told", "has"), [(None, None, True), ("http://localhost:1/v1", None, False), ("http://localhost:1", True, True)]
)
async def test_only_the_dialects_own_server_is_taken_to_have_a_batch_api(
    dialect: Dialect, base_url: str | None, told: bool | None, has: bool
) -> None:
    settings = ProviderSettings(name="p", dialect=dialect, base_url=base_url, api_key=SecretStr("k"), batch_api=told)
    provider = open_provider(settings)
    assert (batch_api_of(provider) is not None) is has
    await provider.aclose()
