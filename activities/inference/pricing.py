"""What a call costs: genai-prices, with the overrides of models.yaml, and the version of the table that said so."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

import genai_prices

from workflows.contracts.errors import UnknownModelError
from workflows.contracts.messages import Price, Usage
from workflows.contracts.provider_settings import ModelSettings

VERSION = f"genai-prices {genai_prices.__version__}"
OVERRIDE_VERSION = "models.yaml"
MILLION = Decimal(1_000_000)
DEFAULT_WINDOW_TOKENS = 128_000
CACHE_WRITE_FACTOR = Decimal("1.25")
"""What writing a provider's prompt cache costs over plain input, at most."""
_BILLS_CACHE_WRITES = "anthropic"
"""Whose models cost more where they write the cache; it matters for prices of one's own, the table knows."""


@dataclass(frozen=True, slots=True)
class Worst:
    """The most that a token can cost, in USD, and how many tokens the model can read."""

    input_usd: Decimal
    output_usd: Decimal
    window_tokens: int


def charge(price_provider: str, model: str, usage: Usage, override: ModelSettings | None) -> Price:
    """What the tokens cost.

    Raises:
        UnknownModelError: no price is known for the model.
    """
    if override and override.input_usd_per_million is not None and override.output_usd_per_million is not None:
        cached_price = override.cached_input_usd_per_million
        cached = usage.cached_input_tokens if cached_price is not None else 0
        cost = (usage.input_tokens - cached) * override.input_usd_per_million + usage.output_tokens * override.output_usd_per_million
        cost += usage.cache_write_tokens * override.input_usd_per_million * (_write_factor(price_provider) - 1)
        return Price(cost_usd=(cost + cached * (cached_price or 0)) / MILLION, version=OVERRIDE_VERSION)
    counted = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    try:
        found = genai_prices.calc_price(counted, model_ref=model, provider_id=price_provider)
    except LookupError:
        raise unpriced(price_provider, model) from None
    return Price(cost_usd=found.total_price, version=VERSION)


@lru_cache(maxsize=256)
def worst(price_provider: str, model: str, override: ModelSettings | None) -> Worst:
    """The dearest price of a token at any context length, for reserving before a call.

    Raises:
        UnknownModelError: no price is known for the model.
    """
    window = override.context_window_tokens if override and override.context_window_tokens else None
    if window is None:
        window = _known_window(price_provider, model)
    whole_input = charge(price_provider, model, Usage(input_tokens=window), override).cost_usd / window
    output = charge(price_provider, model, Usage(input_tokens=window, output_tokens=1_000), override).cost_usd - whole_input * window
    own_price = override is not None and override.input_usd_per_million is not None
    factor = _write_factor(price_provider) if own_price else CACHE_WRITE_FACTOR
    return Worst(whole_input * factor, output / 1_000, window)


def _write_factor(price_provider: str) -> Decimal:
    """How much more than plain input the writing of the cache costs, for prices of one's own."""
    return CACHE_WRITE_FACTOR if price_provider == _BILLS_CACHE_WRITES else Decimal(1)


def _known_window(price_provider: str, model: str) -> int:
    try:
        found = genai_prices.calc_price(genai_prices.Usage(input_tokens=1), model_ref=model, provider_id=price_provider)
    except LookupError:
        return DEFAULT_WINDOW_TOKENS
    return found.model.context_window or DEFAULT_WINDOW_TOKENS


@lru_cache(maxsize=256)
def is_known(price_provider: str, model: str) -> bool:
    """Whether the price table lists the model."""
    try:
        genai_prices.calc_price(genai_prices.Usage(input_tokens=1), model_ref=model, provider_id=price_provider)
    except LookupError:
        return False
    return True


def unpriced(provider: str, model: str) -> UnknownModelError:
    """The refusal to spend blindly."""
    return UnknownModelError(
        f"No price is known for model {model!r} of {provider}: nothing was sent. Correct the name, or give its prices in models.yaml "
        f"(models: {{{provider}:{model}: {{input_usd_per_million: …, output_usd_per_million: …}}}})."
    )
