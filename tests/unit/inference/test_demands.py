"""What a call takes from which limit."""

from __future__ import annotations

import pytest

from activities.inference.buckets import Bucket, BucketKind, Measure
from activities.inference.demands import Caller, Estimate, Learned, Limited, demands, sized
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.provider_settings import KeyEntry, ModelSettings, ProviderEntry, Rates

SETTINGS = InferenceSettings(
    providers={"p": ProviderEntry(dialect="openai", limits=Rates(requests_per_minute=60, tokens_per_minute=6000, headroom=0.2))},
    models={"p:m": ModelSettings(limits=Rates(input_tokens_per_minute=500, output_tokens_per_minute=400, concurrency=3))},
    tenants={"*": Rates(requests_per_minute=10), "acme": Rates(tokens_per_day=1000)},
    agents={"support": Rates(concurrency=2)},
)
ESTIMATE = Estimate(100, 50)
EXACT = Learned(input_factor=1.0, output_tokens=10.0, output_deviation=2.0, samples=8)


def test_whether_a_caller_meets_any_limit_at_all() -> None:
    plain = SETTINGS.model_copy(update={"providers": {"p": ProviderEntry(dialect="openai", api_key_env="KEY")}, "models": {}})
    tenants = plain.model_copy(update={"tenants": {"acme": Rates(tokens_per_day=1000), "free": Rates()}})
    found = {
        who: Limited(tenants).by_anything(Caller(*who)) for who in (("acme", "a"), ("free", "a"), ("other", "support"), ("other", "a"))
    }
    assert found == {("acme", "a"): True, ("free", "a"): False, ("other", "support"): True, ("other", "a"): False}
    assert Limited(plain).by_anything(Caller("other", "a")), "every tenant is limited"
    assert Limited(SETTINGS.model_copy(update={"tenants": {}, "agents": {}})).by_anything(Caller("other", "a"))
    key = KeyEntry(name="main", env="KEY", limits=Rates(concurrency=1))
    keyed = ProviderEntry(dialect="openai", keys=(key,))
    assert Limited(InferenceSettings(providers={"p": keyed})).by_anything(Caller("other", "a"))
    assert not Limited(InferenceSettings()).by_anything(Caller("other", "a"))


def taken(tenant: str = "acme", agent: str = "support", model: str = "p:m", key: Rates | None = None) -> dict[str, float]:
    found = demands(SETTINGS, model, "main", key or Rates(), Caller(tenant, agent), ESTIMATE)
    return {demand.bucket.name: demand.amount for demand in found}


def test_every_limit_of_account_model_tenant_and_agent_is_asked() -> None:
    assert taken() == {
        "provider:p requests/min": 1,
        "provider:p tokens/min": 165,
        "model:p:m input tokens/min": 115,
        "model:p:m output tokens/min": 50,
        "model:p:m concurrency": 1,
        "tenant:acme tokens/day": 165,
        "agent:support concurrency": 1,
    }


def test_a_key_has_limits_of_its_own_under_its_name() -> None:
    assert taken(key=Rates(requests_per_minute=5))["key:p/main requests/min"] == 1


def test_the_star_stands_for_every_tenant_without_an_entry_each_by_itself() -> None:
    assert taken(tenant="other")["tenant:other requests/min"] == 1
    assert "tenant:acme requests/min" not in taken()


def test_who_has_no_limits_takes_nothing() -> None:
    assert demands(InferenceSettings(), "q:m", "", Rates(), Caller("t", "a"), ESTIMATE) == ()


def test_a_bucket_says_how_it_counts() -> None:
    found = {demand.bucket.name: demand.bucket for demand in demands(SETTINGS, "p:m", "", Rates(), Caller("acme", "support"), ESTIMATE)}
    assert found["provider:p tokens/min"] == Bucket("provider:p tokens/min", BucketKind.RATE, Measure.TOKENS, 6000, 60.0, 0.2)
    assert found["provider:p tokens/min"].usable == pytest.approx(4800)
    assert found["tenant:acme tokens/day"].kind is BucketKind.WINDOW
    assert found["model:p:m concurrency"].usable == 3


def test_until_enough_answers_were_seen_the_largest_output_is_reserved() -> None:
    assert sized(ESTIMATE, Learned(samples=7, output_tokens=1.0)) == Estimate(115, 50)


def test_then_the_usual_output_with_two_deviations_is() -> None:
    assert sized(ESTIMATE, EXACT) == Estimate(100, 15)
    assert sized(ESTIMATE, Learned(input_factor=2.0, output_tokens=900.0, samples=80)) == Estimate(200, 50), "never more than the largest"
