"""From the settings to what a call takes from which limit. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from activities.inference.buckets import Bucket, BucketKind, Demand, Estimate, Measure
from workflows.contracts.inference import EVERY, InferenceSettings
from workflows.contracts.provider_settings import Rates

__all__ = ["Caller", "Estimate", "Learned", "Limited", "demands", "sized"]

LEARNED_FROM = 8
"""So many answers of a model must have been seen before the typical output is reserved instead of the largest."""
UNLEARNED_FACTOR = 1.15
DAY_S = 86_400.0
_UNLIMITED = Rates()


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose limits a call takes from."""

    tenant: str
    agent: str


class Limited:
    """Whether settings limit anything. What all callers meet is looked at once: every call asks."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings
        shared = [provider.limits for provider in settings.providers.values()]
        shared += [key.limits for provider in settings.providers.values() for key in provider.keys]
        shared += [model.limits for model in settings.models.values()]
        self._everybody = any(rates.any for rates in shared)

    def by_anything(self, caller: Caller) -> bool:
        """Whether a call of this caller could meet a limit."""
        own = (_named(self._settings.tenants, caller.tenant), _named(self._settings.agents, caller.agent))
        return self._everybody or any(rates is not _UNLIMITED and rates.any for rates in own)


@dataclass(frozen=True, slots=True)
class Learned:
    """What a model's answers have taught: input tokens by estimated ones, and the output that is usual."""

    input_factor: float = 1.0
    output_tokens: float = 0.0
    output_deviation: float = 0.0
    samples: int = 0


def demands(
    settings: InferenceSettings,
    model: str,
    key: str,
    key_limits: Rates,
    caller: Caller,
    estimate: Estimate,
    learned: Learned | None = None,
) -> tuple[Demand, ...]:
    """All limits that apply to a call of PROVIDER:MODEL by a key, with what it takes from each."""
    size = sized(estimate, learned or Learned())
    provider = model.partition(":")[0]
    found: list[Demand] = []
    if provider in settings.providers:
        found += _of(f"provider:{provider}", settings.providers[provider].limits, size)
    if model in settings.models:
        found += _of(f"model:{model}", settings.models[model].limits, size)
    found += _of(f"key:{provider}/{key}", key_limits, size)
    found += _of(f"tenant:{caller.tenant}", _named(settings.tenants, caller.tenant), size)
    found += _of(f"agent:{caller.agent}", _named(settings.agents, caller.agent), size)
    return tuple(found)


def sized(estimate: Estimate, learned: Learned) -> Estimate:
    """What is reserved: the estimate, corrected by what was learned, with a margin on the output of twice its deviation."""
    if learned.samples < LEARNED_FROM:
        return Estimate(math.ceil(estimate.input_tokens * UNLEARNED_FACTOR), estimate.max_output_tokens)
    # A margin beyond the deviation is given back too late where two limits bind by turns: a tenth of what they allow was lost by it.
    usual = math.ceil(learned.output_tokens + 2 * learned.output_deviation) + 1
    return Estimate(math.ceil(estimate.input_tokens * learned.input_factor), min(usual, estimate.max_output_tokens))


def _named(entries: Mapping[str, Rates], name: str) -> Rates:
    return entries.get(name) or entries.get(EVERY) or _UNLIMITED


def _of(owner: str, rates: Rates, size: Estimate) -> Iterator[Demand]:
    both = size.input_tokens + size.max_output_tokens
    minute = (
        ("requests/min", Measure.REQUESTS, rates.requests_per_minute, 1),
        ("tokens/min", Measure.TOKENS, rates.tokens_per_minute, both),
        ("input tokens/min", Measure.INPUT_TOKENS, rates.input_tokens_per_minute, size.input_tokens),
        ("output tokens/min", Measure.OUTPUT_TOKENS, rates.output_tokens_per_minute, size.max_output_tokens),
    )
    for name, measure, limit, amount in minute:
        if limit is not None:
            yield Demand(Bucket(f"{owner} {name}", BucketKind.RATE, measure, limit, 60.0, rates.headroom), amount)
    if rates.tokens_per_day is not None:
        day = Bucket(f"{owner} tokens/day", BucketKind.WINDOW, Measure.TOKENS, rates.tokens_per_day, DAY_S, rates.headroom)
        yield Demand(day, both)
    if rates.concurrency is not None:
        yield Demand(Bucket(f"{owner} concurrency", BucketKind.CONCURRENCY, Measure.CONCURRENCY, rates.concurrency), 1)
