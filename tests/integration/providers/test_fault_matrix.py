"""Every fault of the simulated provider, in both dialects, through the real SDKs, ends where DESIGN says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from activities.inference.calling import watched
from activities.inference.providers.batch_api import BatchItem, Submission, batch_api_of
from activities.inference.providers.protocol import Provider
from activities.inference.turns import Seat, read_turn
from devstack.simulated_provider.faults import CHANGES_ANSWER, Fault, FaultKind
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts import policies
from workflows.contracts.agents import AgentDefinition, ToolSpec
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, ModelRequest, ToolSchema
from workflows.contracts.steps import TurnKind

MakeRequest = Callable[..., ModelRequest]
WAIT_S = 7.0


@dataclass(frozen=True, slots=True)
class Ending:
    """What a fault has to become."""

    failure_class: FailureClass
    told_to_wait: bool = False
    spend_unknown: bool = False


THROTTLED = Ending(FailureClass.THROTTLED)
CALLER = Ending(FailureClass.CALLER)
TRANSIENT = Ending(FailureClass.TRANSIENT)
BROKEN = Ending(FailureClass.TRANSIENT, spend_unknown=True)
ENDINGS = {
    FaultKind.RATE_LIMITED: Ending(FailureClass.THROTTLED, told_to_wait=True),
    FaultKind.RATE_LIMITED_IN_STREAM: THROTTLED,
    FaultKind.QUOTA: Ending(FailureClass.QUOTA),
    FaultKind.BAD_KEY: CALLER,
    FaultKind.FORBIDDEN: CALLER,
    FaultKind.NOT_FOUND: CALLER,
    FaultKind.BAD_REQUEST: CALLER,
    FaultKind.TOO_LARGE: CALLER,
    FaultKind.CONTEXT_TOO_LONG: Ending(FailureClass.CONTEXT),
    FaultKind.REQUEST_TIMEOUT: TRANSIENT,
    FaultKind.CONFLICT: TRANSIENT,
    FaultKind.SERVER_ERROR: Ending(FailureClass.TRANSIENT, told_to_wait=True),
    FaultKind.UNAVAILABLE: Ending(FailureClass.TRANSIENT, told_to_wait=True),
    FaultKind.OVERLOADED: Ending(FailureClass.TRANSIENT, told_to_wait=True),
    FaultKind.OVERLOADED_IN_STREAM: TRANSIENT,
    FaultKind.STREAM_STOPS: BROKEN,
    FaultKind.STREAM_BREAKS: BROKEN,
    FaultKind.STREAM_ENDS_EARLY: BROKEN,
}
TOLD_TO_THE_MODEL = {
    FaultKind.MALFORMED_ARGUMENTS: FinishReason.TOOL_CALLS,
    FaultKind.REFUSAL: FinishReason.REFUSAL,
    FaultKind.TRUNCATED: FinishReason.LENGTH,
}
IN_BATCHES = {FaultKind.BATCH_EXPIRES, FaultKind.BATCH_ANSWER_LOST, FaultKind.BATCH_ANSWER_HELD}


def test_no_kind_of_fault_is_left_out() -> None:
    assert set(FaultKind) == set(ENDINGS) | set(TOLD_TO_THE_MODEL) | IN_BATCHES
    assert set(TOLD_TO_THE_MODEL) == CHANGES_ANSWER


@pytest.mark.parametrize("kind", ENDINGS, ids=lambda kind: kind.value)
async def test_a_failure_ends_in_its_class_after_exactly_one_request(
    kind: FaultKind, sim: SimulatedProvider, provider: Provider, make_request: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is FaultKind.STREAM_STOPS:
        monkeypatch.setattr(policies, "STREAM_IDLE_S", 0.5)
    sim.add_fault(Fault(kind=kind, retry_after_s=WAIT_S, after_events=1))
    with pytest.raises(StepError) as caught:
        await watched(provider, make_request())
    assert sim.fired(kind.value) == 1
    error, ending = caught.value, ENDINGS[kind]
    assert error.failure_class is ending.failure_class
    assert error.retry_after_s == (WAIT_S if ending.told_to_wait else None)
    assert error.spend_unknown is ending.spend_unknown
    assert error.code
    await asyncio.wait_for(sim.idle(), 5)
    (entry,) = sim.journal()  # an SDK must not retry by itself
    assert entry.fault == kind.value
    assert error.spend_unknown or not entry.billed, "what the provider bills must not be lost from the books"


@pytest.mark.parametrize("kind", [FaultKind.OVERLOADED_IN_STREAM, FaultKind.RATE_LIMITED_IN_STREAM], ids=lambda kind: kind.value)
async def test_an_error_after_the_model_has_begun_to_write_may_be_billed(
    kind: FaultKind, sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    sim.add_fault(Fault(kind=kind, after_events=5))
    with pytest.raises(StepError) as caught:
        await watched(provider, make_request())
    assert sim.fired(kind.value) == 1
    assert caught.value.failure_class is ENDINGS[kind].failure_class
    assert caught.value.spend_unknown


@pytest.mark.parametrize("kind", TOLD_TO_THE_MODEL, ids=lambda kind: kind.value)
async def test_what_the_model_did_wrong_is_paid_for_and_told_to_it_and_nothing_is_dispatched(
    kind: FaultKind, sim: SimulatedProvider, provider: Provider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    sim.add_fault(Fault(kind=kind))
    request = make_request(tools=(find_order,))
    response = await watched(provider, request)
    assert sim.fired(kind.value) == 1
    assert response.finish is TOLD_TO_THE_MODEL[kind]
    (entry,) = sim.journal()
    assert (entry.billed, response.usage) == (True, entry.usage)
    tool = ToolSpec(name=find_order.name, description=find_order.description, parameters=find_order.parameters)
    seat = Seat(AgentDefinition(name="support", instructions="Help.", tools=(tool,)), {})
    turn = read_turn("run", 1, seat, request, response, Decimal(0), Decimal(0)).turn
    assert turn.kind is TurnKind.INVALID
    assert turn.calls == ()


@pytest.mark.parametrize("kind", sorted(IN_BATCHES), ids=lambda kind: kind.value)
async def test_what_can_happen_to_a_batch_is_seen_for_what_it_is(
    kind: FaultKind, sim: SimulatedProvider, provider: Provider, make_request: MakeRequest
) -> None:
    provider.offer_batches()  # type: ignore[attr-defined]  # both adapters have it, the protocol need not
    api = batch_api_of(provider)
    assert api is not None
    sim.add_fault(Fault(kind=kind, count=1))
    given = Submission("hf1", [BatchItem("hf1-0", make_request())], datetime.now(UTC))
    if kind is FaultKind.BATCH_EXPIRES:
        batch = await api.submit(given)
        await asyncio.wait_for(sim.batches.ended(), 5)
        (result,) = await api.results(batch, {"hf1-0": make_request()})
        assert (result.response, result.error) == (None, None)
        assert "expired" in result.not_done
    elif kind is FaultKind.BATCH_ANSWER_LOST:
        with pytest.raises(StepError) as caught:
            await api.submit(given)
        assert (caught.value.failure_class, caught.value.spend_unknown) == (FailureClass.TRANSIENT, True)
    else:
        handing_in = asyncio.create_task(api.submit(given))
        async with asyncio.timeout(5):
            while not sim.fired(kind.value):  # noqa: ASYNC110  the server tells nobody that it holds an answer back
                await asyncio.sleep(0.005)
        assert not handing_in.done()
        handing_in.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handing_in
    assert sim.fired(kind.value) == 1
    assert len(sim.batches.all) == 1, "whatever its sender heard, the batch is taken in once"
