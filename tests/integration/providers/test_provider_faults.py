"""What faults carry with them: times to wait, messages without secrets, answers that are cut. Their classes are in test_fault_matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from activities.inference.providers.catalog import Dialect
from activities.inference.providers.protocol import Provider
from devstack.simulated_provider.faults import Fault, FaultKind, RetryAfterForm
from devstack.simulated_provider.journal import Delivery
from devstack.simulated_provider.server import SimulatedProvider
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, ModelRequest, ToolSchema

MakeRequest = Callable[..., ModelRequest]


async def fail(provider: Provider, request: ModelRequest) -> StepError:
    with pytest.raises(StepError) as caught:
        await provider.complete(request, lambda _: None)
    return caught.value


@pytest.mark.parametrize(
    ("form", "wait_s", "at_least_s", "at_most_s"),
    [
        (RetryAfterForm.SECONDS, 7, 7, 7),
        (RetryAfterForm.MS, 0.25, 0.25, 0.25),
        (RetryAfterForm.DATE, 30, 29, 31),
    ],
)
async def test_the_time_to_wait_is_understood_in_every_form(
    form: RetryAfterForm,
    wait_s: float,
    at_least_s: float,
    at_most_s: float,
    sim: SimulatedProvider,
    provider: Provider,
    make_request: MakeRequest,
) -> None:
    sim.add_fault(Fault(kind=FaultKind.RATE_LIMITED, retry_after_s=wait_s, retry_after_form=form))
    error = await fail(provider, make_request())
    assert error.failure_class is FailureClass.THROTTLED
    assert error.retry_after_s is not None
    assert at_least_s <= error.retry_after_s <= at_most_s
    assert sim.fired("rate_limited") == 1


async def test_without_a_time_to_wait_none_is_made_up(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    sim.add_fault(Fault(kind=FaultKind.RATE_LIMITED, retry_after_form=RetryAfterForm.NONE))
    assert (await fail(provider, make_request())).retry_after_s is None


async def test_malformed_arguments_are_passed_through_as_the_model_wrote_them(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    sim.add_fault(Fault(kind=FaultKind.MALFORMED_ARGUMENTS))
    response = await provider.complete(make_request(tools=(find_order,)), lambda _: None)
    assert sim.fired("malformed_arguments") == 1
    assert response.finish is FinishReason.TOOL_CALLS
    assert all(call.arguments.endswith(",]") for call in response.tool_calls)


async def test_a_refusal_says_so_and_keeps_its_words(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    sim.add_fault(Fault(kind=FaultKind.REFUSAL))
    response = await provider.complete(make_request(), lambda _: None)
    assert response.finish is FinishReason.REFUSAL
    assert response.text == "I'm sorry, I can't help with that."


async def test_a_truncated_answer_says_so_even_when_tools_are_called(
    sim: SimulatedProvider, provider: Provider, make_request: MakeRequest, find_order: ToolSchema
) -> None:
    sim.add_fault(Fault(kind=FaultKind.TRUNCATED))
    response = await provider.complete(make_request(tools=(find_order,)), lambda _: None)
    assert response.finish is FinishReason.LENGTH


async def test_an_answer_over_the_output_limit_is_cut_there(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    response = await provider.complete(make_request(max_output_tokens=3), lambda _: None)
    assert response.finish is FinishReason.LENGTH
    assert response.usage.output_tokens == 3
    assert "Your order is on its way".startswith(response.text)


async def test_an_error_message_holds_neither_the_key_nor_the_conversation(
    sim: SimulatedProvider, dialect: Dialect, connect: Callable[..., Provider], make_request: MakeRequest
) -> None:
    sim.keys = frozenset({"sk-another-key-entirely"})
    error = await fail(connect(sim, dialect), make_request("My password is correct horse battery staple"))
    assert error.failure_class is FailureClass.CALLER
    assert "sk-planted-0123456789" not in str(error)
    assert "battery" not in str(error)
    assert error.__cause__ is None, "a cause would carry the SDK's request into history"


async def test_a_server_that_cannot_be_reached_is_transient(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    await sim.stop()
    error = await fail(provider, make_request())
    assert error.failure_class is FailureClass.TRANSIENT
    assert error.code == "unreachable"
    assert not error.spend_unknown


async def test_an_answer_that_breaks_off_is_still_billed(sim: SimulatedProvider, provider: Provider, make_request: MakeRequest) -> None:
    sim.add_fault(Fault(kind=FaultKind.STREAM_BREAKS, count=1))
    await fail(provider, make_request())
    (entry,) = sim.journal()
    assert (entry.billed, entry.delivery, entry.usage is not None) == (True, Delivery.BROKEN_OFF, True)


async def test_text_that_is_not_unicode_is_the_callers_mistake(provider: Provider, make_request: MakeRequest) -> None:
    error = await fail(provider, make_request("half a pair: \ud800"))
    assert error.failure_class is FailureClass.CALLER
    assert error.code == "not_unicode"


async def test_a_request_above_a_limits_whole_capacity_is_not_waited_for(
    sim: SimulatedProvider, connect: Callable[..., Provider], make_request: MakeRequest
) -> None:
    from devstack.simulated_provider.limits import Limits

    sim.change_limits({"*": Limits(tokens_per_minute=50)})
    error = await fail(connect(sim, Dialect.OPENAI), make_request())
    assert error.failure_class is FailureClass.CONTEXT
    assert error.retry_after_s is None
