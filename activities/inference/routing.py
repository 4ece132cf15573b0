"""From the model an agent names to the candidates that can serve it, in order, with the reason for each choice."""

from __future__ import annotations

from dataclasses import dataclass

from activities.inference import pricing
from activities.inference.pricing import Worst
from workflows.contracts import policies
from workflows.contracts.errors import UnknownModelError
from workflows.contracts.inference import InferenceSettings, ModelSettings


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of one provider that may answer."""

    provider: str
    model: str
    price_provider: str
    override: ModelSettings | None
    worst: Worst
    reason: str


class Router:
    """Resolves tiers and model ids."""

    def __init__(self, settings: InferenceSettings) -> None:
        self._settings = settings

    def candidates(self, model: str) -> tuple[Candidate, ...]:
        """All that may serve a tier or a `provider:model`, best first.

        Raises:
            UnknownModelError: it is no tier, its provider is not configured, or it has no price.
        """
        tier = self._settings.tiers.get(model)
        if tier is not None:
            return tuple(
                self._candidate(name, f"tier {model}, choice {place + 1} of {len(tier.models)}") for place, name in enumerate(tier.models)
            )
        if ":" not in model:
            raise UnknownModelError(
                f"{model!r} is neither a tier ({', '.join(sorted(self._settings.tiers))}) nor PROVIDER:MODEL: "
                "correct the agent's `model`, or add the tier to models.yaml."
            )
        return (self._candidate(model, "named by the agent"),)

    def in_turn(self, model: str, attempt: int) -> tuple[Candidate, ...]:
        """The candidates for an attempt: every few failed attempts the next one comes first."""
        found = self.candidates(model)
        first = ((attempt - 1) // policies.CANDIDATE_ATTEMPTS) % len(found)
        return found[first:] + found[:first]

    def _candidate(self, name: str, reason: str) -> Candidate:
        provider, _, model = name.partition(":")
        entry = self._settings.providers.get(provider)
        if entry is None:
            known = ", ".join(sorted(self._settings.providers))
            raise UnknownModelError(f"Model {name!r}: no provider {provider!r} is configured (known: {known}); add it to models.yaml.")
        override = self._settings.models.get(name)
        return Candidate(provider, model, entry.price_provider, override, pricing.worst(entry.price_provider, model, override), reason)
