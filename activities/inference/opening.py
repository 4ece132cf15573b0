"""Opens what the settings name: the providers that have a key on this worker, and the router over them."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from pydantic import SecretStr

from activities.inference.providers.catalog import Dialect, ProviderSettings, open_provider
from activities.inference.providers.protocol import Provider
from activities.inference.routing import Router
from workflows.contracts.inference import InferenceSettings, ProviderEntry

log = structlog.get_logger("holdfast.inference")


class ConfiguredInference:
    """The router and the providers that the settings name. What a change replaces stays open for the calls in the air."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._opened: list[Provider] = []
        self._settings: InferenceSettings | None = None
        self._current: tuple[Router, Mapping[str, Provider]] | None = None

    def take(self, settings: InferenceSettings) -> tuple[Router, Mapping[str, Provider]]:
        """Router and providers by these settings; the same ones as before when nothing has changed.

        Raises:
            SettingsError: a key or address cannot be used; names the variable or the provider.
        """
        if self._current is None or settings != self._settings:
            providers = open_configured(settings, self._environ)
            self._opened += providers.values()
            self._settings, self._current = settings, (Router(settings), providers)
        return self._current

    async def aclose(self) -> None:
        """Close every connection."""
        for provider in self._opened:
            await provider.aclose()


def open_configured(settings: InferenceSettings, environ: Mapping[str, str]) -> dict[str, Provider]:
    """The providers that can be used here; one without its key is left out, said once, and refused when a run asks for it.

    Raises:
        SettingsError: a key or address cannot be used; names the variable or the provider.
    """
    opened = {}
    for name, entry in settings.providers.items():
        key = environ.get(entry.api_key_env, "") if entry.api_key_env else ""
        if entry.api_key_env and not key:
            log.info("provider.without_key", provider=name, variable=entry.api_key_env)
            continue
        opened[name] = open_provider(_provider_settings(name, entry, key))
    return opened


def _provider_settings(name: str, entry: ProviderEntry, key: str) -> ProviderSettings:
    return ProviderSettings(
        name=name,
        dialect=Dialect(entry.dialect),
        base_url=entry.base_url or None,
        api_key=SecretStr(key) if key else None,
        key_variable=entry.api_key_env,
    )
