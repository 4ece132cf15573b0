"""From a tier or a model id to the candidates that may answer, each with the reason why."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from activities.inference.routing import Needs, Router, Wanted, weighted_order
from workflows.contracts import policies
from workflows.contracts.errors import UnknownModelError
from workflows.contracts.inference import InferenceSettings, TierEntry, UnknownPrice
from workflows.contracts.provider_settings import ModelSettings, ProviderEntry

SETTINGS = InferenceSettings(
    providers={
        "openai": ProviderEntry(dialect="openai"),
        "local": ProviderEntry(dialect="openai", base_url="http://127.0.0.1:1/v1", prices="openai"),
    },
    tiers={"smart": ("openai:gpt-5.1", "local:llama", "openai:gpt-5-mini")},
    models={"local:llama": ModelSettings(input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(2), context_window_tokens=8_000)},
)
ROUTER = Router(SETTINGS)


def names(model: str, router: Router = ROUTER, **wanted: Any) -> list[str]:
    return [candidate.name for candidate in router.route(Wanted(model, **wanted)).candidates]


def tiers(**entries: Any) -> Router:
    """A router over other tiers."""
    read = {name: TierEntry.model_validate(entry) for name, entry in entries.items()}
    return Router(SETTINGS.model_copy(update={"tiers": read}))


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
    listed = ["openai:gpt-5.1", "local:llama", "openai:gpt-5-mini"]
    assert names("smart", failures={listed[0]: few - 1}) == listed
    assert names("smart", failures={listed[0]: few}) == ["local:llama", "openai:gpt-5-mini", "openai:gpt-5.1"]
    assert names("smart", failures=dict.fromkeys(listed, few)) == listed
    assert names("openai:gpt-5-mini", failures={"openai:gpt-5-mini": 99}) == ["openai:gpt-5-mini"]


def test_what_a_model_cannot_do_leaves_it_out_with_the_reason():
    limited = SETTINGS.models["local:llama"].model_copy(update={"tools": False, "output_schema": False})
    router = Router(SETTINGS.model_copy(update={"models": {"local:llama": limited}}))
    for needs, why in (
        (Needs(tools=True), "cannot call tools"),
        (Needs(output_schema=True), "cannot be held to a schema"),
        (Needs(input_tokens=8_000), "window of 8000 tokens is too small for 8000"),
    ):
        route = router.route(Wanted("smart", needs=needs))
        assert "local:llama" not in [candidate.name for candidate in route.candidates]
        assert route.considered == (("local:llama", why),)


def test_a_conversation_that_no_model_has_room_for_goes_to_the_largest_which_finds_its_context_full():
    router = tiers(smart=("local:llama", "openai:gpt-5-mini"))

    assert names("smart", router, needs=Needs(input_tokens=9_000, tools=True)) == ["openai:gpt-5-mini"]
    assert names("smart", router, needs=Needs(input_tokens=9_000_000, tools=True)) == ["openai:gpt-5-mini"]


def test_a_weighted_tier_spreads_its_calls_by_weight_and_a_retry_does_not_wander():
    router = tiers(
        mixed={"choice": "weighted", "candidates": [{"model": "openai:gpt-5.1", "weight": 3}, {"model": "openai:gpt-5-mini", "weight": 1}]}
    )
    firsts = Counter(names("mixed", router, seed=f"run:{number}")[0] for number in range(4_000))
    assert 0.7 < firsts["openai:gpt-5.1"] / 4_000 < 0.8
    assert names("mixed", router, seed="run:7") == names("mixed", router, seed="run:7")
    assert weighted_order([], lambda _: 1.0, "x") == []


def test_a_task_type_means_its_tier():
    router = Router(SETTINGS.model_copy(update={"tasks": {"summarise": "smart"}}))
    assert names("summarise", router) == names("smart", router)
    assert router.chooses("summarise")


def test_under_pressure_the_tier_goes_down_a_step_and_says_so():
    router = tiers(smart={"candidates": ["openai:gpt-5.1"], "downgrade_to": "fast"}, fast="openai:gpt-5-mini")
    assert names("smart", router) == ["openai:gpt-5.1"]
    (lower,) = router.route(Wanted("smart", pressure="budget team-day is past 80%")).candidates
    assert (lower.name, lower.downgraded_from) == ("openai:gpt-5-mini", "smart")
    assert lower.reason == "tier fast, choice 1 of 1; down from smart: budget team-day is past 80%"
    assert names("fast", router, pressure="budget team-day is past 80%") == ["openai:gpt-5-mini"], "the lowest tier stays"


def test_a_tier_that_goes_down_by_its_wait_offers_the_lower_one_behind_that_wait_and_comes_back_at_half():
    router = tiers(smart={"candidates": ["openai:gpt-5.1"], "downgrade_to": "fast", "downgrade_wait_s": 30}, fast="openai:gpt-5-mini")
    assert [(each.name, each.penalty_s) for each in router.route(Wanted("smart")).candidates] == [
        ("openai:gpt-5.1", 0.0),
        ("openai:gpt-5-mini", 30.0),
    ]
    assert router.route(Wanted("smart", tempted=frozenset({"smart"}))).candidates[1].penalty_s == 15.0


def test_a_run_stays_with_the_model_whose_prompt_cache_is_worth_more_than_switching():
    long, short = Needs(input_tokens=50_000), Needs(input_tokens=500)
    router = tiers(smart=["openai:gpt-5.1", "openai:gpt-5-mini"])
    assert names("smart", router, needs=long, warm="openai:gpt-5-mini")[0] == "openai:gpt-5-mini"
    assert names("smart", router, needs=short, warm="openai:gpt-5-mini")[0] == "openai:gpt-5.1"
    cheap_first = tiers(smart=["openai:gpt-5-mini", "openai:gpt-5.1"])
    assert names("smart", cheap_first, needs=long, warm="openai:gpt-5.1")[0] == "openai:gpt-5.1", "cached input costs a tenth"


def test_a_model_without_a_price_takes_the_declared_one():
    declared = UnknownPrice(input_usd_per_million=Decimal(9), output_usd_per_million=Decimal(9))
    router = Router(SETTINGS.model_copy(update={"unknown_price": declared}))
    (found,) = router.candidates("openai:gpt-99-imaginary")
    assert found.worst.output_usd == Decimal("0.000009")
    assert router.candidates("openai:gpt-5-mini")[0].override is None


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
        ROUTER.candidates(model)
