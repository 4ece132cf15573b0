"""One call to one provider: watched while it streams, priced when it is there."""

from __future__ import annotations

import asyncio

from activities.edge import report
from activities.inference import pricing
from activities.inference.providers.protocol import Progress, Provider
from activities.inference.routing import Candidate
from telemetry.spans import model_call_span
from workflows.contracts import policies
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import ModelRequest, ModelResponse, Price


async def call(provider: Provider, candidate: Candidate, request: ModelRequest, agent: str, tier: str) -> tuple[ModelResponse, Price]:
    """Ask, under a span of its own; the answer and what it costs.

    Raises:
        StepError: the provider failed, or its stream fell silent.
        UnknownModelError: the answer cannot be priced.
    """
    with model_call_span(
        provider=candidate.provider, model=candidate.model, agent=agent, max_output_tokens=request.max_output_tokens, tier=tier
    ) as span:
        response = await watched(provider, request)
        price = pricing.charge(candidate.price_provider, candidate.model, response.usage, candidate.override)
        span.record_usage(response.usage, price.cost_usd, response=response)
    return response, price


async def watched(provider: Provider, request: ModelRequest) -> ModelResponse:
    """The provider's answer; a stream that goes silent is dead."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(policies.STREAM_IDLE_S) as idle:

            def on_progress(progress: Progress) -> None:
                idle.reschedule(loop.time() + policies.STREAM_IDLE_S)
                report(events=progress.events, output_chars=progress.output_chars)

            return await provider.complete(request, on_progress)
    except TimeoutError as error:
        raise StepError(
            f"The stream of {request.model} brought nothing for {policies.STREAM_IDLE_S:g} s.",
            failure_class=FailureClass.TRANSIENT,
            code="stream_idle",
            spend_unknown=True,
        ) from error
