"""Opens what models.yaml names: the providers that have a key on this worker, and the router over them."""

from __future__ import annotations

from collections.abc import Mapping

import structlog
from pydantic import SecretStr

from activities.inference.providers.catalog import Dialect, ProviderSettings, open_provider
from activities.inference.providers.protocol import Provider
from activities.inference.settings import InferenceSettings, ProviderEntry

log = structlog.get_logger("holdfast.inference")


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
