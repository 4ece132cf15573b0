"""From a step and a candidate to what is reserved, and to what is sent. No I/O."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from activities.identity import WORKER
from activities.inference.admission import Admitted
from activities.inference.asking import Asked
from activities.inference.demands import Caller, Estimate
from activities.inference.routing import CACHE_TOKENS, Candidate, Needs
from state.budgets import BudgetLine
from state.model_calls import Looked, Plan
from state.response_cache import Hit
from workflows.contracts.inference import EVERY, BudgetEntry, BudgetScope, InferenceSettings
from workflows.contracts.messages import Message, ModelRequest, Role
from workflows.contracts.steps import ModelCallRequest

ESTIMATE_FACTOR = 1.15
"""Headroom on estimated input tokens when reserving."""
MIN_OUTPUT_TOKENS = 16
NO_WINDOW_TOKENS = 2_000_000_000
WARM_S = 300.0
"""How long a provider's prompt cache is counted on."""


def request(
    asked: Asked, step: ModelCallRequest, candidate: Candidate, conversation: tuple[Message, ...], max_output_tokens: int
) -> ModelRequest:
    """What is sent to a candidate."""
    system = Message(role=Role.SYSTEM, text=asked.instructions)
    return ModelRequest(
        model=candidate.model,
        messages=(system, *asked.fold(conversation, candidate.worst.window_tokens)),
        tools=asked.tools,
        output_schema=asked.output_schema,
        max_output_tokens=max_output_tokens,
        temperature=asked.temperature,
        idempotency_key=f"{step.run_id}:{step.step}",
    )


def max_output_tokens(asked: Asked, candidate: Candidate) -> int:
    """The most that the answer may have: the agent's wish, within the tier's limit."""
    return min(asked.max_output_tokens, candidate.max_output_tokens or asked.max_output_tokens)


def plan(settings: InferenceSettings, step: ModelCallRequest, asked: Asked, admitted: Admitted, considered: Any = ()) -> Plan:
    """What a call by this candidate and key may take at most, and whom it charges."""
    candidate, key = admitted.option.candidate, admitted.option.key
    output = max_output_tokens(asked, candidate)
    return Plan(
        provider=candidate.provider,
        model=candidate.model,
        reason=candidate.reason,
        worker=WORKER,
        overhead_tokens=asked.overhead_tokens,
        estimate_factor=ESTIMATE_FACTOR,
        window_tokens=NO_WINDOW_TOKENS if asked.may_overflow else candidate.worst.window_tokens,
        max_output_tokens=output,
        min_output_tokens=min(MIN_OUTPUT_TOKENS, output),
        input_usd=candidate.worst.input_usd,
        output_usd=candidate.worst.output_usd,
        key=key.name,
        tier=candidate.tier or step.agent.model,
        downgraded_from=candidate.downgraded_from or None,
        decision=decision(admitted, considered),
        budgets=budget_lines(settings, step),
        delayed_s=(datetime.now(UTC) - asked.since).total_seconds() if asked.since and admitted.told_s is not None else None,
    )


def free_plan(step: ModelCallRequest, asked: Asked, provider: str, model: str, hit: Hit) -> Plan:
    """What an answer from the cache takes: nothing; and what it saves."""
    return Plan(
        provider=provider,
        model=model,
        reason=_found_by(hit),
        worker=WORKER,
        overhead_tokens=asked.overhead_tokens,
        estimate_factor=ESTIMATE_FACTOR,
        window_tokens=NO_WINDOW_TOKENS,
        max_output_tokens=1,
        min_output_tokens=1,
        input_usd=Decimal(0),
        output_usd=Decimal(0),
        tier=step.agent.model,
        cache=hit.kind,
        decision={"saved_usd": str(hit.saved_usd)} | _origin(hit),
    )


def _found_by(hit: Hit) -> str:
    near = "" if hit.similarity is None else f", similarity {hit.similarity:.3f} to the question of key {(hit.origin or '')[:12]}"
    return f"{hit.kind} hit in the response cache{near}"


def _origin(hit: Hit) -> dict[str, Any]:
    return {} if hit.similarity is None else {"similarity": round(hit.similarity, 4), "origin": hit.origin}


def decision(admitted: Admitted, considered: Any) -> dict[str, Any] | None:
    """What the router and the limiter decided, as far as it is more than the reason says."""
    told: dict[str, Any] = {}
    if considered:
        told["left_out"] = [list(each) for each in considered]
    if admitted.told_s is not None:
        told["told_s"] = round(admitted.told_s, 3)
    return told or None


def needs(asked: Asked, looked: Looked | None) -> Needs:
    """What the call needs of a model; the conversation's size only where it was looked at, and is not cut anyway."""
    known = None if looked is None or asked.may_overflow else input_tokens(asked, looked)
    return Needs(known, min(MIN_OUTPUT_TOKENS, asked.max_output_tokens), bool(asked.tools), asked.output_schema is not None)


def input_tokens(asked: Asked, looked: Looked) -> int:
    """The estimate of what is sent; the look has written the step's appendices and counted them."""
    return looked.input_tokens + asked.overhead_tokens


def estimate(asked: Asked, looked: Looked | None) -> Estimate:
    """What the limiter reserves."""
    return Estimate(input_tokens(asked, looked) if looked else asked.overhead_tokens, asked.max_output_tokens)


def caller(step: ModelCallRequest) -> Caller:
    """Whose limits a call takes from."""
    return Caller(tenant=step.tenant, agent=step.agent.name)


def warm(looked: Looked | None) -> str | None:
    """The PROVIDER:MODEL whose prompt cache still holds the conversation, if any."""
    last = looked.last if looked else None
    if last is None or last.age_s > WARM_S or last.input_tokens < CACHE_TOKENS:
        return None
    return f"{last.provider}:{last.model}"


def budget_lines(settings: InferenceSettings, step: ModelCallRequest) -> tuple[BudgetLine, ...]:
    """Every budget that the call must fit into, beside the run's own."""
    lines = []
    for name, entry in settings.budgets.items():
        owner = budget_owner(entry, step)
        if owner is not None:
            lines.append(
                BudgetLine(
                    name=name,
                    id=f"{name}:{owner}" if owner else name,
                    period=entry.period,
                    cost_usd=entry.cost_usd,
                    tokens=entry.tokens,
                    calls=entry.calls,
                    soft=entry.soft,
                )
            )
    return tuple(lines)


def budget_owner(entry: BudgetEntry, step: ModelCallRequest) -> str | None:
    """Whose budget of this entry the call charges, empty for the one that all share; None when it is not theirs."""
    match entry.scope:
        case BudgetScope.GLOBAL:
            return ""
        case BudgetScope.AGENT:
            owner: str | None = step.agent.name
        case BudgetScope.TENANT:
            owner = step.tenant
        case BudgetScope.USER:
            owner = f"{step.tenant}/{step.user}" if step.user is not None else None
    if owner is None or entry.of == EVERY:
        return owner
    named = entry.of if entry.scope is not BudgetScope.USER or "/" in entry.of else f"{step.tenant}/{entry.of}"
    return owner if owner == named else None
