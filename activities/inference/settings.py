"""models.yaml: which providers there are, what each tier means, and what is not in the price table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from workflows.contracts.errors import DefinitionError
from workflows.contracts.messages import Frozen

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


class ProviderEntry(Frozen):
    """One provider. Its key is only ever read from the environment variable named here; a server without keys names none."""

    dialect: Literal["openai", "anthropic"]
    base_url: str | None = None
    """None: the SDK's own address; text may hold `${env:NAME}` or `${env:NAME:-default}`."""
    api_key_env: str | None = None
    prices: str = ""
    """The provider under which genai-prices lists these models; the dialect's own when empty."""

    @property
    def price_provider(self) -> str:
        """Where to look prices up."""
        return self.prices or self.dialect


class ModelSettings(Frozen):
    """What overrides or completes the price table for one model."""

    context_window_tokens: int | None = Field(default=None, ge=256)
    input_usd_per_million: Decimal | None = Field(default=None, ge=0)
    cached_input_usd_per_million: Decimal | None = Field(default=None, ge=0)
    output_usd_per_million: Decimal | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _prices_are_whole(self) -> Self:
        prices = (self.input_usd_per_million, self.output_usd_per_million)
        if None in prices and (prices != (None, None) or self.cached_input_usd_per_million is not None):
            raise ValueError("a price of one's own needs both input_usd_per_million and output_usd_per_million")
        return self


class InferenceSettings(Frozen):
    """All of models.yaml."""

    providers: dict[str, ProviderEntry]
    tiers: dict[str, tuple[str, ...]]
    models: dict[str, ModelSettings] = {}

    @field_validator("tiers", mode="before")
    @classmethod
    def _no_empty_tier(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = {tier: [models] if isinstance(models, str) else models for tier, models in value.items()}
            for tier, models in value.items():
                if not models:
                    raise ValueError(f"tier {tier!r} has no model: name at least one")
        return value


OPENAI = ProviderEntry(dialect="openai", api_key_env="OPENAI_API_KEY", base_url="${env:OPENAI_BASE_URL:-}")
ANTHROPIC = ProviderEntry(dialect="anthropic", api_key_env="ANTHROPIC_API_KEY", base_url="${env:ANTHROPIC_BASE_URL:-}")


def defaults(environ: Mapping[str, str]) -> InferenceSettings:
    """Both providers; the tiers prefer the provider whose key is set."""
    fast = ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5")
    smart = ("openai:gpt-5.1", "anthropic:claude-sonnet-4-5")
    if environ.get("ANTHROPIC_API_KEY") and not environ.get("OPENAI_API_KEY"):
        fast, smart = fast[::-1], smart[::-1]
    providers = {
        name: entry.model_copy(update={"base_url": resolve(entry.base_url or "", environ) or None})
        for name, entry in (("openai", OPENAI), ("anthropic", ANTHROPIC))
    }
    return InferenceSettings(providers=providers, tiers={"fast": fast, "smart": smart})


def load(paths: list[Path], environ: Mapping[str, str] = os.environ) -> InferenceSettings:
    """Read every models.yaml; later files add to and override earlier ones, and all of them the defaults.

    Raises:
        DefinitionError: a file is wrong; names the file, the field and the remedy.
    """
    merged = defaults(environ)
    for path in paths:
        merged = _merge(merged, _read(path, environ))
    _check_candidates(merged, paths)
    return merged


def _merge(base: InferenceSettings, over: InferenceSettings) -> InferenceSettings:
    return InferenceSettings(
        providers={**base.providers, **over.providers}, tiers={**base.tiers, **over.tiers}, models={**base.models, **over.models}
    )


def _read(path: Path, environ: Mapping[str, str]) -> InferenceSettings:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DefinitionError(f"{path}: cannot be read as YAML ({error}).") from error
    if not isinstance(raw, dict):
        raise DefinitionError(f"{path}: must be a mapping with providers, tiers and models.")
    try:
        return InferenceSettings.model_validate({"providers": {}, "tiers": {}} | _resolved(raw, environ))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DefinitionError(f"{path}: field {field}: {first['msg']}.") from None


def _resolved(value: Any, environ: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, environ) for item in value]
    return resolve(value, environ) if isinstance(value, str) else value


def resolve(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with its `${env:NAME:-default}` references replaced."""
    return _REFERENCE.sub(lambda match: environ.get(match[1]) or match[2] or "", text)


def _check_candidates(settings: InferenceSettings, paths: list[Path]) -> None:
    where = ", ".join(str(path) for path in paths) or "the defaults"
    for tier, models in settings.tiers.items():
        for model in models:
            provider = model.partition(":")[0]
            if ":" not in model or provider not in settings.providers:
                known = ", ".join(sorted(settings.providers))
                raise DefinitionError(f"{where}: tier {tier}: {model!r} must be PROVIDER:MODEL with a provider of {known}.")
