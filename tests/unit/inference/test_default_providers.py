"""What a worker without a models.yaml talks to."""

from __future__ import annotations

from activities.inference import settings


def test_without_an_address_in_the_environment_the_sdk_uses_its_own():
    assert settings.load([], {}).providers["openai"].base_url is None
    assert settings.load([], {}).providers["anthropic"].base_url is None


def test_an_address_in_the_environment_is_taken_for_the_known_providers():
    found = settings.load([], {"OPENAI_BASE_URL": "http://127.0.0.1:8000/v1"})

    assert found.providers["openai"].base_url == "http://127.0.0.1:8000/v1"
