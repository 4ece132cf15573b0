"""Places in a document of JSON: their paths, what stands there, and what differs between two documents."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from workflows.contracts.errors import ConfigurationError

Document = dict[str, Any]
"""A mapping in JSON's types."""

_PART: Final = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([^."'\s][^."']*))\s*(?:\.(?=.)|$)""")


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
    inner = document.get(name)
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
    before, after = (dict(leaves(document)) for document in (old, new))
    for at in sorted(before.keys() | after.keys(), key=path_text):
        if before.get(at) != after.get(at) or (at in before) != (at in after):
            yield path_text(at), before.get(at), after.get(at)


def leaves(value: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(names along the path, value) of all that is no mapping; mappings inside a list by their place in it."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, (*at, str(name)))
    elif at:
        yield at, value
        if isinstance(value, list | tuple):
            for place, inner in enumerate(value):
                if isinstance(inner, Mapping):
                    yield from leaves(inner, (*at, str(place)))
