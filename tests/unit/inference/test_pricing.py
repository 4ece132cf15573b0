"""What a call costs, by the table or by what is set for the model, and the most that a token can cost."""

from __future__ import annotations

from decimal import Decimal

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.inference import pricing
from workflows.contracts.errors import UnknownModelError
from workflows.contracts.messages import Usage
from workflows.contracts.provider_settings import ModelSettings

OWN = ModelSettings(input_usd_per_million=Decimal(2), output_usd_per_million=Decimal(10), context_window_tokens=1_000)
OWN_CACHED = OWN.model_copy(update={"cached_input_usd_per_million": Decimal("0.5")})
KNOWN = [("openai", "gpt-5-mini"), ("openai", "gpt-5.1"), ("anthropic", "claude-haiku-4-5"), ("anthropic", "claude-sonnet-4-5")]


def test_a_price_of_the_table_names_the_table():
    price = pricing.charge("anthropic", "claude-haiku-4-5", Usage(input_tokens=1_000, output_tokens=1_000), None)
    assert price.version == f"genai-prices {genai_prices.__version__}"
    assert price.cost_usd > 0


@pytest.mark.parametrize(("provider", "model"), KNOWN)
def test_cached_input_is_part_of_the_input_and_cheaper(provider: str, model: str):
    def cost(**tokens: int) -> Decimal:
        return pricing.charge(provider, model, Usage(**tokens), None).cost_usd

    plain, cached = cost(input_tokens=1_000), cost(input_tokens=1_000, cached_input_tokens=1_000)
    assert 0 < cached < plain
    assert cost(input_tokens=1_000, cached_input_tokens=400) == cached * 4 / 10 + plain * 6 / 10


def test_writing_the_cache_of_anthropic_costs_more_than_input_and_never_more_than_is_reserved():
    plain = pricing.charge("anthropic", "claude-haiku-4-5", Usage(input_tokens=1_000), None).cost_usd
    written = pricing.charge("anthropic", "claude-haiku-4-5", Usage(input_tokens=1_000, cache_write_tokens=1_000), None).cost_usd
    assert plain < written <= plain * pricing.CACHE_WRITE_FACTOR


def test_writing_anthropics_cache_costs_a_quarter_more_by_a_price_of_ones_own_too():
    usage = Usage(input_tokens=1_000, cached_input_tokens=400, cache_write_tokens=200, output_tokens=100)
    plain = pricing.charge("openai", "own", usage, OWN_CACHED).cost_usd
    assert plain == Decimal("0.0024")
    assert pricing.charge("anthropic", "own", usage, OWN_CACHED).cost_usd == plain + Decimal("0.0001")


@pytest.mark.parametrize(
    ("settings", "usage", "cost"),
    [
        (OWN, Usage(input_tokens=1_000, output_tokens=100), "0.003"),
        (OWN, Usage(input_tokens=1_000, cached_input_tokens=600), "0.002"),
        (OWN_CACHED, Usage(input_tokens=1_000, cached_input_tokens=600), "0.0011"),
        (OWN_CACHED, Usage(), "0"),
    ],
)
def test_prices_of_models_yaml_come_before_the_table(settings: ModelSettings, usage: Usage, cost: str):
    price = pricing.charge("openai", "gpt-5-mini", usage, settings)
    assert (price.cost_usd, price.version) == (Decimal(cost), "models.yaml")


def test_a_model_without_a_price_is_refused_by_name_with_the_remedy():
    with pytest.raises(UnknownModelError, match=r"No price is known for model 'nothing' of openai: nothing was sent.*openai:nothing"):
        pricing.charge("openai", "nothing", Usage(input_tokens=1), None)
    with pytest.raises(UnknownModelError):
        pricing.worst("openai", "nothing", None)
    with pytest.raises(UnknownModelError):
        pricing.worst("openai", "nothing", ModelSettings(context_window_tokens=1_000))


def test_the_window_is_the_tables_unless_models_yaml_says_otherwise():
    assert pricing.worst("anthropic", "claude-haiku-4-5", None).window_tokens == 200_000
    assert pricing.worst("anthropic", "claude-haiku-4-5", ModelSettings(context_window_tokens=50_000)).window_tokens == 50_000
    assert (
        pricing.worst("openai", "own", OWN.model_copy(update={"context_window_tokens": None})).window_tokens
        == pricing.DEFAULT_WINDOW_TOKENS
    )


@given(data=st.data())
@pytest.mark.parametrize(
    ("provider", "model", "settings"),
    [(*known, None) for known in KNOWN] + [(provider, "own", own) for provider in ("openai", "anthropic") for own in (OWN, OWN_CACHED)],
)
def test_no_call_costs_more_than_was_reserved_for_its_tokens(
    provider: str, model: str, settings: ModelSettings | None, data: st.DataObject
):
    worst = pricing.worst(provider, model, settings)
    whole = data.draw(st.integers(0, worst.window_tokens))
    cached = data.draw(st.integers(0, whole))
    written = data.draw(st.integers(0, whole - cached))
    output = data.draw(st.integers(0, 100_000))
    usage = Usage(input_tokens=whole, cached_input_tokens=cached, cache_write_tokens=written, output_tokens=output)
    cost = pricing.charge(provider, model, usage, settings).cost_usd
    assert cost <= whole * worst.input_usd + output * worst.output_usd
