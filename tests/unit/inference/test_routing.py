"""From a tier or a model id to the candidates that may answer, each with the reason why."""

from __future__ import annotations

from decimal import Decimal

import pytest

from activities.inference.routing import Router
from workflows.contracts import policies
from workflows.contracts.errors import UnknownModelError
from workflows.contracts.inference import InferenceSettings, ModelSettings, ProviderEntry

SETTINGS = InferenceSettings(
    providers={
        "openai": ProviderEntry(dialect="openai"),
        "local": ProviderEntry(dialect="openai", base_url="http://127.0.0.1:1/v1", prices="openai"),
    },
    tiers={"smart": ("openai:gpt-5.1", "local:llama", "openai:gpt-5-mini")},
    models={"local:llama": ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(2), context_window_tokens=8_000)},
)
ROUTER = Router(SETTINGS)


def names(model: str, attempt: int = 1) -> list[str]:
    return [f"{candidate.provider}:{candidate.model}" for candidate in ROUTER.in_turn(model, attempt)]


def test_a_tier_means_its_models_in_their_order_each_with_its_reason():
    found = ROUTER.candidates("smart")
    assert [(candidate.provider, candidate.model) for candidate in found] == [
        ("openai", "gpt-5.1"),
        ("local", "llama"),
        ("openai", "gpt-5-mini"),
    ]
    assert [candidate.reason for candidate in found] == [f"tier smart, choice {place} of 3" for place in (1, 2, 3)]


def test_a_model_id_means_itself_and_nothing_else():
    (found,) = ROUTER.candidates("openai:gpt-5-mini")
    assert (found.provider, found.model, found.reason) == ("openai", "gpt-5-mini", "named by the agent")
    (with_colon,) = Router(SETTINGS.model_copy(update={"models": {"local:llama:70b": SETTINGS.models["local:llama"]}})).candidates(
        "local:llama:70b"
    )
    assert with_colon.model == "llama:70b"


def test_a_candidate_that_keeps_failing_gives_way_to_the_next_and_comes_round_again():
    few = policies.CANDIDATE_ATTEMPTS
    assert {tuple(names("smart", attempt)) for attempt in range(1, few + 1)} == {("openai:gpt-5.1", "local:llama", "openai:gpt-5-mini")}
    assert names("smart", few + 1) == ["local:llama", "openai:gpt-5-mini", "openai:gpt-5.1"]
    assert names("smart", 3 * few + 1) == names("smart", 1)
    assert names("openai:gpt-5-mini", 99) == ["openai:gpt-5-mini"]


def test_what_is_set_for_a_model_comes_before_the_price_table():
    candidate = ROUTER.candidates("local:llama")[0]
    assert (candidate.worst.window_tokens, candidate.worst.output_usd) == (8_000, Decimal("0.000002"))


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("clever", r"'clever' is neither a tier \(smart\) nor PROVIDER:MODEL: correct the agent's `model`, or add the tier"),
        ("nobody:gpt-5", r"no provider 'nobody' is configured \(known: local, openai\); add it to models.yaml"),
        (
            "openai:gpt-99-imaginary",
            r"No price is known for model 'gpt-99-imaginary' of openai: nothing was sent. Correct the name, or give",
        ),
    ],
)
def test_a_model_that_nobody_serves_is_refused_with_the_remedy(model: str, told: str):
    with pytest.raises(UnknownModelError, match=told):
        ROUTER.in_turn(model, 1)
