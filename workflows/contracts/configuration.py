"""Configuration that is changed while workers run: a partial document in the database, laid over what each worker's files say.

A document is laid over by the rules of JSON Merge Patch (RFC 7396): mappings are merged, everything else is replaced, and null
takes away what lies below, so that the default counts again, or the entry is gone.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from workflows.contracts.errors import ConfigurationError
from workflows.contracts.inference import InferenceSettings, ProviderEntry
from workflows.contracts.redaction import redact_value

Document = dict[str, Any]
"""Part of an InferenceSettings in JSON's types: only what is set."""

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

_PART: Final = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([^."'\s][^."']*))\s*(?:\.(?=.)|$)""")
_PROGRAMS: Final = "programs are named in models.yaml only, so that who may change the configuration cannot run programs on workers"


def overlaid(base: InferenceSettings, document: Mapping[str, Any]) -> InferenceSettings:
    """The document laid over settings, with everything checked that can be checked here.

    Raises:
        ConfigurationError: it cannot be used over these settings; names the field and the remedy.
    """
    refuse_unfit(document)
    try:
        merged = InferenceSettings.model_validate(merge(base.model_dump(mode="json"), _long_forms(document)))
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
    for field, value in _leaves(document, ()):
        if field[-1:] == ("command",) and value is not None:
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


def parse_path(path: str) -> tuple[str, ...]:
    """The names along a path such as `tiers.smart` or `models."openai:gpt-5.1".limits`; names that hold dots stand in quotes.

    Raises:
        ConfigurationError: it cannot be read.
    """
    parts, at = [], 0
    while match := _PART.match(path, at):
        parts.append(next(group for group in match.groups() if group is not None).strip())
        at = match.end()
        if at == len(path):
            return tuple(parts)
    raise ConfigurationError(
        f"{path!r} is no path: write names with dots between them, and put names that hold dots in quotes.", field=path
    )


def path_text(parts: tuple[str | int, ...]) -> str:
    """The names as a path that `parse_path` reads."""
    return ".".join(f'"{part}"' if isinstance(part, str) and "." in part else str(part) for part in parts)


def with_value(document: Mapping[str, Any], path: tuple[str, ...], value: Any) -> Document:
    """The document with a value at the path; mappings on the way are made."""
    name, rest = path[0], path[1:]
    if not rest:
        return {**document, name: value}
    inner = (
        _long_forms({"tiers": {"": document.get(name)}})["tiers"][""] if isinstance(document.get(name), str | list) else document.get(name)
    )
    return {**document, name: with_value(inner if isinstance(inner, Mapping) else {}, rest, value)}


def without_value(document: Mapping[str, Any], path: tuple[str, ...]) -> Document:
    """The document without what is at the path, and without mappings that are empty then.

    Raises:
        KeyError: nothing is set there.
    """
    name, rest = path[0], path[1:]
    kept = {key: value for key, value in document.items() if key != name}
    inner = document[name]
    if not rest:
        return kept
    if not isinstance(inner, Mapping):
        raise KeyError(rest[0])
    smaller = without_value(inner, rest)
    return {**kept, name: smaller} if smaller else kept


def value_at(document: Any, path: tuple[str, ...]) -> Any:
    """What is at the path.

    Raises:
        KeyError: nothing is there.
    """
    for name in path:
        if not isinstance(document, Mapping):
            raise KeyError(name)
        document = document[name]
    return document


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(path, value before, value after) of all that differs, by path; None stands for nothing."""
    before, after = (dict(_leaves(document, ())) for document in (old, new))
    for at in sorted(before.keys() | after.keys(), key=path_text):
        if before.get(at) != after.get(at) or (at in before) != (at in after):
            yield path_text(at), before.get(at), after.get(at)


def _long_forms(document: Mapping[str, Any]) -> Document:
    """Tiers that are given as one model or a list, as mappings that merge with what a file says of the same tier."""
    tiers = document.get("tiers")
    if not isinstance(tiers, Mapping):
        return dict(document)
    long = {
        name: {"candidates": [tier] if isinstance(tier, str) else tier} if isinstance(tier, str | list) else tier
        for name, tier in tiers.items()
    }
    return {**document, "tiers": long}


def _leaves(value: Any, at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(inner, (*at, str(name)))
    elif at:
        yield at, value
        if isinstance(value, list | tuple):
            for place, inner in enumerate(value):
                if isinstance(inner, Mapping):
                    yield from _leaves(inner, (*at, str(place)))


def _pairs(document: Any, redacted: Any) -> Iterator[tuple[tuple[tuple[str, ...], Any], tuple[tuple[str, ...], Any]]]:
    return zip(_leaves(document, ()), _leaves(redacted, ()), strict=False)


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
