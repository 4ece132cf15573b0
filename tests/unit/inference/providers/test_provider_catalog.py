from __future__ import annotations

import subprocess
import sys

import anthropic
import openai
import pytest
from pydantic import SecretStr

from activities.inference.providers.anthropic_messages import AnthropicMessages
from activities.inference.providers.catalog import Dialect, ProviderSettings, open_provider, open_providers
from activities.inference.providers.connection import timeouts
from activities.inference.providers.openai_chat import OpenAIChat
from workflows.contracts.errors import SettingsError
from workflows.contracts.redaction import redact


@pytest.mark.parametrize(("dialect", "variable"), [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")])
def test_a_missing_key_names_the_variable_to_set(dialect: str, variable: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        open_provider(ProviderSettings(name="main", dialect=Dialect(dialect)))


def test_a_key_of_blanks_is_a_missing_key() -> None:
    with pytest.raises(SettingsError, match="MY_KEY"):
        open_provider(ProviderSettings(name="p", dialect=Dialect.OPENAI, api_key=SecretStr(" \n"), key_variable="MY_KEY"))


@pytest.mark.parametrize("key", ["sk-with\nnewline", "sk-ümlaut", "sk-two words"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="OPENAI_API_KEY") as caught:
        open_provider(ProviderSettings(name="p", dialect=Dialect.OPENAI, api_key=SecretStr(key)))
    assert key not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://"])
def test_a_base_url_without_http_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="base URL"):
        open_provider(ProviderSettings(name="p", dialect=Dialect.OPENAI, base_url=url))


def test_two_providers_of_one_name_are_refused() -> None:
    one = ProviderSettings(name="p", dialect=Dialect.OPENAI, base_url="http://localhost:1/v1")
    with pytest.raises(SettingsError, match="Two providers"):
        open_providers([one, one])


async def test_a_server_of_ones_own_needs_no_key() -> None:
    provider = open_provider(ProviderSettings(name="local", dialect=Dialect.OPENAI, base_url="http://localhost:1/v1"))
    assert provider.name == "local"
    await provider.aclose()


async def test_a_key_is_redacted_everywhere_from_the_moment_the_provider_opens() -> None:
    key = "entirely-own-format-of-key-4711"
    provider = open_provider(ProviderSettings(name="p", dialect=Dialect.OPENAI, api_key=SecretStr(key)))
    assert key not in redact(f"the key is {key}")
    assert key not in repr(provider)
    await provider.aclose()


async def test_a_client_that_retries_by_itself_is_refused() -> None:
    with pytest.raises(SettingsError, match="max_retries=0"):
        OpenAIChat("p", openai.AsyncOpenAI(api_key="k"))
    with pytest.raises(SettingsError, match="max_retries=0"):
        AnthropicMessages("p", anthropic.AsyncAnthropic(api_key="k"))


async def test_every_time_limit_of_a_connection_is_explicit() -> None:
    key = SecretStr("k" * 20)
    for provider in (OpenAIChat.connect("p", key), AnthropicMessages.connect("p", key)):
        assert provider._client.timeout == timeouts()
        assert timeouts().as_dict() == {"connect": 5.0, "pool": 10.0, "read": 600.0, "write": 600.0}
        await provider.aclose()


def test_naming_providers_loads_no_sdk() -> None:
    code = "import sys, activities.inference.providers.catalog as c; sys.exit('openai' in sys.modules or 'anthropic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
