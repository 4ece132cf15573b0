"""What is refused of the semantic cache's settings, with the field and the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from workflows.contracts.inference import InferenceSettings, SemanticSettings

PROVIDERS = {"openai": {"dialect": "openai"}, "anthropic": {"dialect": "anthropic"}}


def settings(**semantic: Any) -> InferenceSettings:
    return InferenceSettings.model_validate({"providers": PROVIDERS, "cache": {"semantic": semantic}})


def test_it_is_off_unless_it_is_set_and_strict_unless_told_otherwise() -> None:
    assert InferenceSettings().cache.semantic is None
    made = settings(model="openai:text-embedding-3-small")
    assert made.wrong() is None
    assert made.cache.semantic is not None
    assert made.cache.semantic.min_similarity == 0.97


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("text-embedding-3-small", "cache.semantic.model: 'text-embedding-3-small' must be PROVIDER:MODEL with a provider of openai"),
        ("mistral:embed", "cache.semantic.model: 'mistral:embed' must be PROVIDER:MODEL with a provider of openai"),
        ("anthropic:claude", "the dialect anthropic has no embeddings: name a provider of openai"),
    ],
)
def test_a_model_that_cannot_embed_is_refused(model: str, said: str) -> None:
    assert said in (settings(model=model).wrong() or "")


@pytest.mark.parametrize(
    "field", [{"min_similarity": 0}, {"min_similarity": 1.1}, {"dimensions": 0}, {"dimensions": 16_001}, {"timeout_s": 0}]
)
def test_a_value_that_makes_no_sense_is_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(field))):
        SemanticSettings.model_validate({"model": "openai:m"} | field)
