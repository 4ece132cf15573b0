"""Opens the providers that the settings name. Importing this loads no SDK; opening a provider loads its own."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from activities.inference.providers.protocol import Provider
from workflows.contracts.errors import SettingsError
from workflows.contracts.messages import Frozen
from workflows.contracts.redaction import add_secrets

if TYPE_CHECKING:
    from activities.inference.providers.sdk_provider import SdkProvider

_NO_KEY = "no-key-needed"


class Dialect(StrEnum):
    """The two ways of speaking to a model."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


_OWN_HOSTS = {Dialect.OPENAI: "api.openai.com", Dialect.ANTHROPIC: "api.anthropic.com"}


class ProviderSettings(Frozen):
    """One provider.

    Args:
        name: stands before the colon in model ids, as in `openai:gpt-5`.
        dialect: how it speaks.
        base_url: another server than the dialect's own, as in `http://localhost:8000/v1`.
        api_key: read from the environment by the entry point; never written anywhere.
        key_variable: the environment variable that the key comes from, for error messages. By default the dialect's own;
            None together with a base URL means that the server needs no key.
        prompt_cache: ask for the provider's prompt cache where the dialect lets us ask.
        batch_api: whether the server has the dialect's Batch API; None: only the dialect's own server has.
    """

    name: str
    dialect: Dialect
    base_url: str | None = None
    api_key: SecretStr | None = None
    key_variable: str | None = None
    prompt_cache: bool = True
    batch_api: bool | None = None

    @property
    def has_batches(self) -> bool:
        """Whether requests can be handed in as batches."""
        if self.batch_api is not None:
            return self.batch_api
        return self.base_url is None or urlsplit(self.base_url).hostname == _OWN_HOSTS[self.dialect]

    @property
    def required_variable(self) -> str | None:
        """The environment variable that must be set, if any."""
        if self.key_variable is None and self.base_url is None:
            return f"{self.dialect.value.upper()}_API_KEY"
        return self.key_variable


def open_providers(settings: Iterable[ProviderSettings]) -> dict[str, Provider]:
    """The providers by name. Raises `SettingsError` that names the variable or field to mend; opens no connection yet."""
    providers: dict[str, Provider] = {}
    for setting in settings:
        if setting.name in providers:
            raise SettingsError(f"Two providers are called {setting.name!r}")
        providers[setting.name] = open_provider(setting)
    return providers


def open_provider(setting: ProviderSettings) -> Provider:
    """One provider; its key is made known to redaction first."""
    key = _checked_key(setting)
    _check_url(setting)
    add_secrets([key.get_secret_value()] if setting.api_key else [])
    provider = _connect(setting, key)
    if setting.has_batches:
        provider.offer_batches()
    return provider


def _connect(setting: ProviderSettings, key: SecretStr) -> SdkProvider:
    if setting.dialect is Dialect.ANTHROPIC:
        from activities.inference.providers.anthropic_messages import AnthropicMessages

        return AnthropicMessages.connect(setting.name, key, setting.base_url, prompt_cache=setting.prompt_cache)
    from activities.inference.providers.openai_chat import OpenAIChat

    return OpenAIChat.connect(setting.name, key, setting.base_url, prompt_cache=setting.prompt_cache)


def _checked_key(setting: ProviderSettings) -> SecretStr:
    variable = setting.required_variable
    key = setting.api_key.get_secret_value().strip() if setting.api_key else ""
    if not key:
        if variable:
            raise SettingsError(f"Provider {setting.name!r} has no API key: set {variable} in the environment")
        return SecretStr(_NO_KEY)
    if not key.isascii() or not key.isprintable() or " " in key:
        origin = f" (from {variable})" if variable else ""
        raise SettingsError(f"The API key of provider {setting.name!r}{origin} holds characters that no header can carry")
    return SecretStr(key)


def _check_url(setting: ProviderSettings) -> None:
    if setting.base_url is None:
        return
    parts = urlsplit(setting.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"The base URL of provider {setting.name!r} is {setting.base_url!r}: it must begin with http:// or https://")
