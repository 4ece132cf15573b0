"""The one door to the models: finds what is paid already, reserves, calls through the router's candidates, records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import structlog

from activities.edge import report, until_available
from activities.identity import WORKER
from activities.inference import pricing
from activities.inference.providers.protocol import Progress, Provider
from activities.inference.routing import Candidate, Router
from state import model_calls, transcripts
from state.model_calls import Begun, Plan, SubRun
from state.pool import Database
from telemetry.spans import model_call_span
from workflows.contracts import policies
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.errors import FailureClass, StepError, UnavailableError
from workflows.contracts.messages import Message, ModelRequest, ModelResponse, Price, Role, ToolSchema
from workflows.contracts.runs import ModelCallRequest

log = structlog.get_logger("holdfast.inference")

ESTIMATE_FACTOR = 1.15
"""Headroom on estimated input tokens when reserving."""
MIN_OUTPUT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Asked:
    """What to ask: the instructions and offers that stand beside the conversation. `fold` makes the request's messages of it."""

    instructions: str
    tools: tuple[ToolSchema, ...]
    output_schema: dict[str, Any] | None
    max_output_tokens: int
    temperature: float | None
    fold: Callable[[tuple[Message, ...], int], tuple[Message, ...]]
    """(conversation, window in tokens) → what is sent after the instructions."""
    may_overflow: bool = False
    """The conversation may be larger than the window, because `fold` cuts it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A response, with what it cost and what its dead attempts are charged."""

    request: ModelRequest
    response: ModelResponse
    price: Price
    unknown_usd: Decimal


@dataclass(frozen=True, slots=True)
class Kept:
    """What is recorded together with a response."""

    turn: dict[str, Any]
    rows: list[dict[str, Any]]
    sub_runs: tuple[SubRun, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """No call was made: `context_full` or `over_budget`."""

    outcome: str
    unknown_usd: Decimal
    refused_by: str | None


class Gateway:
    """Every model call of a worker process goes through here."""

    def __init__(self, database: Database, router: Router, providers: Mapping[str, Provider]) -> None:
        self._database = database
        self._router = router
        self._providers = providers

    def configure(self, router: Router, providers: Mapping[str, Provider]) -> None:
        """Take over new settings; calls in the air end with the old ones."""
        self._router, self._providers = router, providers

    async def pay(
        self, request: ModelCallRequest, asked: Asked, attempt: int, keep: Callable[[Answered], Kept]
    ) -> tuple[dict[str, Any], Decimal] | Refused:
        """Give the recorded turn of this (run, step) and its unknown spend, calling a model only if none is recorded yet.

        Raises:
            StepError: no candidate could answer; the class says what happens next.
            UnknownModelError: the agent's model is not known, or has no price.
        """
        quota: StepError | None = None
        for candidate in self._router.in_turn(request.agent.model, attempt):
            begun = await model_calls.begin(self._database, request, self._plan(candidate, asked))
            if begun.outcome == "recorded":
                return begun.turn or {}, begun.unknown_usd
            if begun.outcome != "go":
                return Refused(begun.outcome, begun.unknown_usd, begun.refused_by)
            try:
                answered = await self._call(request, asked, candidate, begun)
            except StepError as error:
                if error.failure_class is not FailureClass.QUOTA:
                    raise
                log.warning("model.quota", provider=candidate.provider, model=candidate.model, code=error.code)
                quota = error
                continue
            try:
                kept = keep(answered)
            except StepError as error:
                await self._settle(begun.call_id, error)
                raise
            except Exception as error:
                bug = StepError(f"{type(error).__name__} while the answer was read", failure_class=FailureClass.CODE, spend_unknown=True)
                await self._settle(begun.call_id, bug)
                raise
            return await self._record(begun.call_id, answered, kept), begun.unknown_usd
        raise quota or StepError("No model candidate is configured.", failure_class=FailureClass.CALLER)

    async def _call(self, request: ModelCallRequest, asked: Asked, candidate: Candidate, begun: Begun) -> Answered:
        system = Message(role=Role.SYSTEM, text=asked.instructions)
        sent = ModelRequest(
            model=candidate.model,
            messages=(system, *asked.fold(begun.messages, candidate.worst.window_tokens)),
            tools=asked.tools,
            output_schema=asked.output_schema,
            max_output_tokens=begun.max_output_tokens,
            temperature=asked.temperature,
            idempotency_key=f"{request.run_id}:{request.step}",
        )
        try:
            with model_call_span(
                provider=candidate.provider, model=candidate.model, agent=request.agent.name, max_output_tokens=sent.max_output_tokens
            ) as span:
                response = await _watched(self._provider(candidate.provider), sent)
                price = pricing.charge(candidate.price_provider, candidate.model, response.usage, candidate.override)
                span.record_usage(response.usage, price.cost_usd, response=response)
        except StepError as error:
            await self._settle(begun.call_id, error)
            raise
        except BaseException as error:
            # Cancelled, or a bug of ours: the provider may well have billed.
            unknown = StepError(f"{type(error).__name__} in mid-call", failure_class=FailureClass.CODE, spend_unknown=True)
            await asyncio.shield(self._settle(begun.call_id, unknown))
            raise
        return Answered(sent, response, price, begun.unknown_usd)

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            raise StepError(
                f"Provider {name!r} has no key on this worker: set its environment variable (`holdfast doctor` names it) and redrive.",
                failure_class=FailureClass.CALLER,
                code="no_key",
            )
        return provider

    async def _settle(self, call_id: int, error: StepError) -> None:
        """Close the books of a failed attempt. With the database away the row stays open: the next attempt charges it as unknown."""
        close = model_calls.charge_unknown if error.spend_unknown else model_calls.fail
        try:
            await close(self._database, call_id, error.failure_class.value, str(error))
        except UnavailableError:
            log.warning("model.settle_postponed", call_id=call_id)

    async def _record(self, call_id: int, answered: Answered, kept: Kept) -> dict[str, Any]:
        """Write the paid response, however long the database is away within reason, and even when the step is cancelled now."""
        writing = asyncio.ensure_future(
            until_available(
                lambda: model_calls.finish(
                    self._database,
                    call_id,
                    turn=kept.turn,
                    response=answered.response,
                    price=answered.price,
                    rows=kept.rows,
                    sub_runs=kept.sub_runs,
                )
            )
        )
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await writing
            raise

    def _plan(self, candidate: Candidate, asked: Asked) -> Plan:
        overhead = transcripts.text_tokens(asked.instructions) + sum(
            transcripts.text_tokens(f"{tool.name}{tool.description}{tool.parameters}") for tool in asked.tools
        )
        return Plan(
            provider=candidate.provider,
            model=candidate.model,
            reason=candidate.reason,
            worker=WORKER,
            overhead_tokens=overhead,
            estimate_factor=ESTIMATE_FACTOR,
            window_tokens=2_000_000_000 if asked.may_overflow else candidate.worst.window_tokens,
            max_output_tokens=asked.max_output_tokens,
            min_output_tokens=min(MIN_OUTPUT_TOKENS, asked.max_output_tokens),
            input_usd=candidate.worst.input_usd,
            output_usd=candidate.worst.output_usd,
        )


async def _watched(provider: Provider, request: ModelRequest) -> ModelResponse:
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


def whole(definition: AgentDefinition, tools: tuple[ToolSchema, ...]) -> Asked:
    """An agent's ordinary question: its instructions, its tools, the conversation as it is."""
    return Asked(
        instructions=definition.instructions,
        tools=tools,
        output_schema=definition.output_schema,
        max_output_tokens=definition.max_output_tokens,
        temperature=definition.temperature,
        fold=lambda conversation, _window: conversation,
    )
