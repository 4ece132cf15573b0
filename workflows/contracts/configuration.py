"""Configuration that is changed while workers run: a partial document in the database, laid over what each worker's files say.

A document is laid over by the rules of JSON Merge Patch (RFC 7396): mappings are merged, everything else is replaced, and null
takes away what lies below, so that the default counts again, or the entry is gone.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from workflows.contracts.documents import Document, leaves, path_text
from workflows.contracts.errors import ConfigurationError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.provider_settings import ProviderEntry
from workflows.contracts.redaction import redact_value

CHANNEL: Final = "holdfast_configuration"
"""The channel on which a new version's number is announced."""

OPENAI: Final = ProviderEntry(dialect="openai", api_key_env="OPENAI_API_KEY", base_url="${env:OPENAI_BASE_URL:-}")
ANTHROPIC: Final = ProviderEntry(dialect="anthropic", api_key_env="ANTHROPIC_API_KEY", base_url="${env:ANTHROPIC_BASE_URL:-}")
BUILT_IN: Final = InferenceSettings.model_validate(
    {
        "providers": {"openai": OPENAI, "anthropic": ANTHROPIC},
        "tiers": {
            "fast": ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5"),
            "smart": ("openai:gpt-5.1", "anthropic:claude-sonnet-4-5"),
        },
    }
)
"""What counts where no file says otherwise."""

_PROGRAMS: Final = "programs are named in models.yaml only, so that who may change the configuration cannot run programs on workers"


def overlaid(base: InferenceSettings, document: Mapping[str, Any]) -> InferenceSettings:
    """The document laid over settings, the whole checked. `refuse_unfit` checks what must not even be stored.

    Raises:
        ConfigurationError: it cannot be used over these settings; names the field and the remedy.
    """
    if not document:
        return base
    try:
        merged = InferenceSettings.model_validate(merge(base.model_dump(mode="json"), long_forms(document)))
    except ValidationError as error:
        raise _refused(error) from None
    if problem := merged.wrong():
        raise ConfigurationError(f"{problem}.", field=problem.partition(": ")[0])
    return merged


def refuse_unfit(document: Mapping[str, Any]) -> None:
    """Refuse what must not stand in the database, whatever it is laid over: secrets, programs, what JSON cannot say.

    Raises:
        ConfigurationError: names the field and the remedy.
    """
    try:
        json.dumps(document, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The document is not JSON ({error}): use texts, numbers, lists and mappings.") from None
    for field, value in leaves(document):
        if field[0] in ("alerts", "providers") and field[-1] == "command" and value is not None:
            raise ConfigurationError(f"{path_text(field)}: {_PROGRAMS}.", field=path_text(field))
    redacted = redact_value(document)
    if redacted != document:
        where = next((path_text(at) for (at, value), (_, kept) in _pairs(document, redacted) if value != kept), "a name in it")
        raise ConfigurationError(
            f"{where}: looks like a secret, which is never stored: write ${{env:NAME}}, and set NAME on the workers.", field=where
        )


def merge(base: Any, patch: Any) -> Any:
    """The patch laid over the base (RFC 7396); neither is changed."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(base) if isinstance(base, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def long_forms(document: Mapping[str, Any]) -> Document:
    """The document with tiers that are given as one model or a list, as mappings that merge with what a file says of the same tier."""
    tiers = document.get("tiers")
    if not isinstance(tiers, Mapping):
        return dict(document)
    listed = {name: [tier] if isinstance(tier, str) else tier for name, tier in tiers.items()}
    long = {name: {"candidates": tier} if isinstance(tier, list) else tier for name, tier in listed.items()}
    return {**document, "tiers": long}


def _pairs(document: Any, redacted: Any) -> Iterator[tuple[tuple[tuple[str, ...], Any], tuple[tuple[str, ...], Any]]]:
    return zip(leaves(document), leaves(redacted), strict=False)


def _refused(error: ValidationError) -> ConfigurationError:
    first = error.errors(include_url=False, include_input=False)[0]
    at = tuple(first["loc"])
    field = path_text(at) or "the document"
    if first["type"] == "extra_forbidden":
        return ConfigurationError(f"{field}: {_unknown_field(at)}", field=field)
    said = first["msg"].removeprefix("Value error, ")
    return ConfigurationError(f"{field}: {said[:1].lower()}{said[1:]}.", field=field)


def _unknown_field(at: tuple[str | int, ...]) -> str:
    known = sorted(fields_at(at[:-1]))
    close = difflib.get_close_matches(str(at[-1]), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}." if known else "nothing can be set below it."
    quotes = " Names that hold dots stand in quotes." if any(isinstance(part, str) and ":" in part for part in at) else ""
    return f"there is no such field; {hint}{quotes}"


def fields_at(at: tuple[str | int, ...]) -> list[str]:
    """The names of the fields that can stand at a place; none where names are free."""
    kind: Any = InferenceSettings
    for part in at:
        kind = _inside(kind, part)
    models = [each for each in _alternatives(kind) if isinstance(each, type) and issubclass(each, BaseModel)]
    return [name for model in models for name in model.model_fields]


def _inside(kind: Any, part: str | int) -> Any:
    for each in _alternatives(kind):
        if isinstance(each, type) and issubclass(each, BaseModel) and part in each.model_fields:
            return each.model_fields[str(part)].annotation
        if get_origin(each) is dict:
            return get_args(each)[1]
        if get_origin(each) is tuple:
            return get_args(each)[0]
    return None


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
