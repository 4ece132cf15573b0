"""From the model an agent names to the candidates that can serve it, in order, with the reason for each choice. Pure: no I/O."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TypeVar

from activities.inference import pricing
from activities.inference.pricing import Worst
from workflows.contracts import policies
from workflows.contracts.errors import UnknownModelError
from workflows.contracts.inference import InferenceSettings, TierEntry
from workflows.contracts.messages import Usage
from workflows.contracts.provider_settings import ModelSettings

T = TypeVar("T")

PLACE_PENALTY_S = 2.0
"""How much longer a call rather waits for a candidate than take the one behind it."""
CACHE_TOKENS = 1_024
"""A shorter conversation is in no provider's prompt cache."""
TYPICAL_OUTPUT_TOKENS = 300
"""What an answer is taken to have where staying with a model is weighed against switching."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of one provider that may answer."""

    provider: str
    model: str
    price_provider: str
    override: ModelSettings | None
    worst: Worst
    reason: str
    tier: str = ""
    weight: float = 1.0
    penalty_s: float = 0.0
    """Seconds of waiting that it is worth to take one before it."""
    downgraded_from: str = ""
    max_output_tokens: int | None = None

    @property
    def name(self) -> str:
        """PROVIDER:MODEL."""
        return f"{self.provider}:{self.model}"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a call needs of a model. `input_tokens` is None when the conversation was not looked at yet."""

    input_tokens: int | None = None
    output_tokens: int = 1
    tools: bool = False
    output_schema: bool = False

    def unmet_by(self, candidate: Candidate) -> str | None:
        """Why the candidate cannot do it, or None."""
        override = candidate.override or ModelSettings()
        if self.tools and not override.tools:
            return "cannot call tools"
        if self.output_schema and not override.output_schema:
            return "cannot be held to a schema"
        if self.input_tokens is not None and self.input_tokens + self.output_tokens > candidate.worst.window_tokens:
            return f"window of {candidate.worst.window_tokens} tokens is too small for {self.input_tokens}"
        return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked of the router for one attempt of one step."""

    model: str
    needs: Needs = Needs()
    seed: str = ""
    """Draws the weighted choices: the same for all attempts of a step, so that a retry does not wander."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failed attempts of this step by PROVIDER:MODEL."""
    warm: str | None = None
    """The PROVIDER:MODEL whose prompt cache holds the conversation."""
    pressure: str = ""
    """Why the tier is to go down a step; empty while nothing presses."""
    tempted: frozenset[str] = frozenset()
    """Tiers that answered from below last: they come back at half the wait."""


@dataclass(frozen=True, slots=True)
class Route:
    """The candidates in order of preference, and what became of the others."""

    candidates: tuple[Candidate, ...]
    considered: tuple[tuple[str, str], ...]
    """(PROVIDER:MODEL, why not), for those that were left out."""


class Router:
    """Resolves tiers, task types and model ids."""

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        """All that may serve a tier, a task type or a `provider:model`, in the order they are listed.

        Raises:
            UnknownModelError: it is neither, its provider is not configured, or it has no price.
        """
        tier = self.settings.tiers.get(self._tier_name(model))
        if tier is None:
            if ":" not in model:
                raise self._unknown(model)
            return (self._candidate(model, "named by the agent"),)
        name, of = self._tier_name(model), len(tier.candidates)
        return tuple(
            replace(
                self._candidate(listed.model, f"tier {name}, choice {place} of {of}"),
                tier=name,
                weight=listed.weight,
                max_output_tokens=tier.max_output_tokens,
            )
            for place, listed in enumerate(tier.candidates, start=1)
        )

    def route(self, wanted: Wanted) -> Route:
        """The candidates that can do it, best first, each with the reason for its place.

        Raises:
            UnknownModelError: as `candidates`.
        """
        tier = self.settings.tiers.get(self._tier_name(wanted.model))
        lower = tier.downgrade_to if tier else None
        if wanted.pressure and lower is not None:
            found = self._lowered(wanted, lower, f"down from {wanted.model}: {wanted.pressure}")
        else:
            found = self._ordered(wanted, self.candidates(wanted.model), tier)
            if tier and lower is not None and tier.downgrade_wait_s is not None:
                share = 0.5 if self._tier_name(wanted.model) in wanted.tempted else 1.0
                below = self._lowered(wanted, lower, f"down from {wanted.model}: its wait is over {tier.downgrade_wait_s:g} s")
                found += [replace(each, penalty_s=each.penalty_s + tier.downgrade_wait_s * share) for each in below]
        fit, unfit = [], []
        for candidate in found:
            unmet = wanted.needs.unmet_by(candidate)
            unfit.append((candidate.name, unmet)) if unmet else fit.append(candidate)
        return Route(tuple(fit or self._largest(wanted.needs, found)), tuple(unfit))

    @staticmethod
    def _largest(needs: Needs, found: Sequence[Candidate]) -> list[Candidate]:
        """Where the conversation alone is too large for every model: the one with the most room, which finds its context full."""
        able = [candidate for candidate in found if replace(needs, input_tokens=None).unmet_by(candidate) is None]
        return [max(able, key=lambda candidate: candidate.worst.window_tokens)] if able else []

    def downgrades(self, model: str) -> bool:
        """Whether the tier has a lower one to go down to."""
        tier = self.settings.tiers.get(self._tier_name(model))
        return tier is not None and tier.downgrade_to is not None

    def chooses(self, model: str) -> bool:
        """Whether there is more than one candidate."""
        tier = self.settings.tiers.get(self._tier_name(model))
        return tier is not None and (len(tier.candidates) > 1 or tier.downgrade_to is not None)

    def _lowered(self, wanted: Wanted, lower: str, reason: str) -> list[Candidate]:
        found = self._ordered(wanted, self.candidates(lower), self.settings.tiers.get(lower))
        return [replace(each, reason=f"{each.reason}; {reason}", downgraded_from=wanted.model) for each in found]

    def _ordered(self, wanted: Wanted, found: Sequence[Candidate], tier: TierEntry | None) -> list[Candidate]:
        order = list(found)
        if tier is not None and tier.choice == "weighted":
            order = weighted_order(order, lambda each: each.weight, wanted.seed)
        warm = next((each for each in order if each.name == wanted.warm), None)
        if warm is not None and warm is not order[0] and self._worth_staying(warm, order[0], wanted.needs):
            order.remove(warm)
            order.insert(0, replace(warm, reason=f"{warm.reason}; its prompt cache holds the conversation"))
        order.sort(key=lambda each: wanted.failures.get(each.name, 0) // policies.CANDIDATE_ATTEMPTS)
        return [replace(each, penalty_s=place * PLACE_PENALTY_S) for place, each in enumerate(order)]

    def _worth_staying(self, warm: Candidate, first: Candidate, needs: Needs) -> bool:
        """Whether the next call is cheaper on the warm model with its cache than on the other one without."""
        tokens = needs.input_tokens or 0
        if tokens < CACHE_TOKENS:
            return False
        stay = Usage(input_tokens=tokens, cached_input_tokens=tokens, output_tokens=TYPICAL_OUTPUT_TOKENS)
        go = Usage(input_tokens=tokens, output_tokens=TYPICAL_OUTPUT_TOKENS)
        return self._cost(warm, stay) < self._cost(first, go)

    @staticmethod
    def _cost(candidate: Candidate, usage: Usage) -> Decimal:
        return pricing.charge(candidate.price_provider, candidate.model, usage, candidate.override).cost_usd

    def _tier_name(self, model: str) -> str:
        return self.settings.tasks.get(model, model)

    def _candidate(self, name: str, reason: str) -> Candidate:
        provider, _, model = name.partition(":")
        entry = self.settings.providers.get(provider)
        if entry is None:
            known = ", ".join(sorted(self.settings.providers))
            raise UnknownModelError(f"Model {name!r}: no provider {provider!r} is configured (known: {known}); add it to models.yaml.")
        override = self._override(name, entry.price_provider)
        return Candidate(provider, model, entry.price_provider, override, pricing.worst(entry.price_provider, model, override), reason)

    def _override(self, name: str, price_provider: str) -> ModelSettings | None:
        """The model's own settings; with the declared price for unknown models where no table has one."""
        override = self.settings.models.get(name)
        declared = self.settings.unknown_price
        if declared is None or (override and override.priced) or pricing.is_known(price_provider, name.partition(":")[2]):
            return override
        prices = declared.model_dump()
        return (override or ModelSettings()).model_copy(update=prices)

    def _unknown(self, model: str) -> UnknownModelError:
        return UnknownModelError(
            f"{model!r} is neither a tier ({', '.join(sorted(self.settings.tiers))}) nor PROVIDER:MODEL: "
            "correct the agent's `model`, or add the tier to models.yaml."
        )


def weighted_order(items: Iterable[T], weight: Callable[[T], float], seed: str) -> list[T]:
    """The items in an order drawn by weight: an item comes first as often as its weight says. The same seed gives the same order."""
    chance = random.Random(seed)  # noqa: S311 - spreads load, keeps no secret
    drawn = [(-math.log(1.0 - chance.random()) / weight(item), item) for item in items]
    return [item for _, item in sorted(drawn, key=lambda pair: pair[0])]
