"""The embedding of a step's question: a paid call like any other, under limits, breakers and budgets, that may fail without harm."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from activities.identity import WORKER
from activities.inference import planning, pricing
from activities.inference.admission import Admission, Admitted, Request
from activities.inference.asking import Answered, Kept
from activities.inference.demands import Estimate
from activities.inference.providers.embedding import Embedded, Embeds
from activities.inference.recording import record, settle
from activities.inference.routing import Candidate, Route, Router
from state import limits, model_calls, transcripts
from state.model_calls import Plan
from state.pool import Database
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import InferenceSettings, SemanticSettings
from workflows.contracts.messages import FinishReason, ModelRequest, ModelResponse
from workflows.contracts.steps import ModelCallRequest


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be embedded, and for which step. Its call is written down under the step's number below zero (docs/adr/0016)."""

    step: ModelCallRequest
    text: str

    @property
    def aside(self) -> ModelCallRequest:
        """The step under which it is charged."""
        return self.step.model_copy(update={"step": -self.step.step, "appendices": ()})

    @property
    def ticket(self) -> str:
        """Its place in the lines of the limits."""
        return f"{self.step.run_id}:{-self.step.step}"

    @property
    def key(self) -> str:
        """The same for every attempt."""
        return f"{self.step.run_id}:{self.step.step}:question"

    @property
    def tokens(self) -> int:
        """An estimate, on the high side."""
        return transcripts.text_tokens(self.text)


@dataclass(frozen=True, slots=True)
class QuestionEmbedding:
    """Asks an embeddings model, once."""

    database: Database
    router: Router
    admission: Admission
    settings: SemanticSettings

    async def vector(self, question: Question) -> Sequence[float] | None:
        """The question's vector; None where a budget has no room for it, or it was paid for already and is lost.

        Raises:
            StepError: it could not be had in time; the books say what it is charged.
            UnknownModelError: the embeddings model has no price.
        """
        candidate = self.router.candidates(self.settings.model)[0]
        if question.tokens > candidate.worst.window_tokens:
            return None
        until = asyncio.get_running_loop().time() + self.settings.timeout_s
        admitted = await self._admitted(candidate, question, until)
        try:
            begun = await model_calls.begin(self.database, question.aside, self._plan(admitted, question))
        except BaseException:
            self.admission.not_sent(admitted)
            raise
        if begun.outcome != "go":
            self.admission.not_sent(admitted)
            return None
        embedded = await self._call(admitted, question, begun.call_id, until)
        await self._record(candidate, question, begun.call_id, embedded)
        (vector,) = embedded.vectors
        return vector

    async def _admitted(self, candidate: Candidate, question: Question, until: float) -> Admitted:
        """Its slot, where one is near; else it leaves the line, since it will not come again."""
        estimate = Estimate(question.tokens, 0)
        wish = Request(planning.caller(question.step), question.ticket, question.step.priority, estimate, question.key)
        admission = Admission(self._impatient(), self.admission.keys, self.admission.breakers, self.admission.limiter)
        try:
            async with asyncio.timeout_at(until):
                return await admission.admit(Route((candidate,), ()), wish, frozenset())
        except (StepError, TimeoutError) as error:
            if admission.limiter is not None:
                await limits.step_out(self.database, question.ticket)
            raise error if isinstance(error, StepError) else _too_slow(self.settings, sent=False) from error

    def _impatient(self) -> InferenceSettings:
        """The settings with slots only as far ahead as the embedding may wait: one further ahead would be taken, and left unused."""
        limiter = self.router.settings.limiter
        patience_s = min(limiter.in_process_wait_s, self.settings.timeout_s)
        horizon_s = {priority: min(patience_s, horizon_s) for priority, horizon_s in limiter.horizon_s.items()}
        return self.router.settings.model_copy(update={"limiter": limiter.model_copy(update={"horizon_s": horizon_s})})

    async def _call(self, admitted: Admitted, question: Question, call_id: int, until: float) -> Embedded:
        """Closes the books of a call that fails."""
        option = admitted.option
        try:
            if not isinstance(option.key.provider, Embeds):
                raise StepError(f"Provider {option.candidate.provider!r} has no embeddings.", failure_class=FailureClass.CALLER)
            embedder = option.key.provider.embedder(option.candidate.model, self.settings.dimensions)
            with option.key.in_use():
                async with asyncio.timeout_at(until):
                    embedded = await embedder.embed((question.text,), question.key)
        except TimeoutError as error:
            raise await self._failed(admitted, call_id, _too_slow(self.settings, sent=True)) from error
        except StepError as error:
            raise await self._failed(admitted, call_id, error) from None
        except BaseException as error:
            self.admission.gave_up(admitted)
            unknown = StepError(f"{type(error).__name__} in mid-call", failure_class=FailureClass.CODE, spend_unknown=True)
            await asyncio.shield(settle(self.database, call_id, unknown))
            raise
        self.admission.succeeded(admitted, _as_response(embedded))
        return embedded

    async def _failed(self, admitted: Admitted, call_id: int, error: StepError) -> StepError:
        try:
            await self.admission.failed(admitted, error)
        finally:
            await asyncio.shield(settle(self.database, call_id, error))
        return error

    async def _record(self, candidate: Candidate, question: Question, call_id: int, embedded: Embedded) -> None:
        price = pricing.charge(candidate.price_provider, candidate.model, embedded.usage, candidate.override)
        sent = ModelRequest(model=candidate.model, messages=(), max_output_tokens=1, idempotency_key=question.key)
        await record(self.database, call_id, Answered(sent, _as_response(embedded), price, Decimal(0)), Kept({}, []))

    def _plan(self, admitted: Admitted, question: Question) -> Plan:
        candidate = admitted.option.candidate
        return Plan(
            provider=candidate.provider,
            model=candidate.model,
            reason="the question's embedding, for the semantic cache",
            worker=WORKER,
            overhead_tokens=question.tokens,
            estimate_factor=planning.ESTIMATE_FACTOR,
            window_tokens=planning.NO_WINDOW_TOKENS,
            max_output_tokens=0,
            min_output_tokens=0,
            input_usd=candidate.worst.input_usd,
            output_usd=candidate.worst.output_usd,
            key=admitted.option.key.name,
            tier=question.step.agent.model,
            budgets=planning.budget_lines(self.router.settings, question.step),
        )


def _as_response(embedded: Embedded) -> ModelResponse:
    return ModelResponse(
        model=embedded.model,
        text="",
        finish=FinishReason.STOP,
        usage=embedded.usage,
        request_id=embedded.request_id,
        simulated=embedded.simulated,
        told=embedded.told,
    )


def _too_slow(settings: SemanticSettings, *, sent: bool) -> StepError:
    return StepError(
        f"The embedding by {settings.model} took longer than cache.semantic.timeout_s ({settings.timeout_s:g} s).",
        failure_class=FailureClass.TRANSIENT,
        code="embedding_slow",
        spend_unknown=sent,
    )
