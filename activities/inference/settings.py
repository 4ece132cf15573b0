"""models.yaml: which providers there are, what each tier means, and what is not in the price table."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from workflows.contracts.configuration import BUILT_IN
from workflows.contracts.errors import DefinitionError
from workflows.contracts.inference import InferenceSettings

_REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def defaults(environ: Mapping[str, str]) -> InferenceSettings:
    """Both providers; the tiers prefer the provider whose key is set."""
    anthropic_first = bool(environ.get("ANTHROPIC_API_KEY") and not environ.get("OPENAI_API_KEY"))
    providers = {
        name: entry.model_copy(update={"base_url": resolve(entry.base_url or "", environ) or None})
        for name, entry in BUILT_IN.providers.items()
    }
    tiers = {
        name: tier.model_copy(update={"candidates": tier.candidates[::-1] if anthropic_first else tier.candidates})
        for name, tier in BUILT_IN.tiers.items()
    }
    return InferenceSettings(providers=providers, tiers=tiers)


def load(paths: list[Path], environ: Mapping[str, str] = os.environ) -> InferenceSettings:
    """Read every models.yaml; later files add to and override earlier ones, and all of them the defaults.

    Raises:
        DefinitionError: a file is wrong; names the file, the field and the remedy.
    """
    merged = defaults(environ)
    for path in paths:
        merged = _read(path, environ).over(merged)
    if problem := merged.wrong():
        where = ", ".join(str(path) for path in paths) or "the defaults"
        raise DefinitionError(f"{where}: {problem}.")
    return merged


def _read(path: Path, environ: Mapping[str, str]) -> InferenceSettings:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DefinitionError(f"{path}: cannot be read as YAML ({error}).") from error
    if not isinstance(raw, dict):
        raise DefinitionError(f"{path}: must be a mapping with providers, tiers and models.")
    try:
        return InferenceSettings.model_validate(resolved(raw, environ))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DefinitionError(f"{path}: field {field}: {first['msg']}.") from None


def resolved(value: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """The value with the references in all its texts replaced."""
    if isinstance(value, dict):
        return {key: resolved(item, environ) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item, environ) for item in value]
    return resolve(value, environ) if isinstance(value, str) else value


def resolve(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with its `${env:NAME:-default}` references replaced."""
    return _REFERENCE.sub(lambda match: environ.get(match[1]) or match[2] or "", text)
