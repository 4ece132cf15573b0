"""YAML documents with line numbers, so that a wrong field can be named where it stands."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from workflows.contracts.errors import DefinitionError

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Document:
    """A YAML mapping and where its parts stand in the file."""

    path: Path
    values: dict[str, Any]
    lines: dict[tuple[str | int, ...], int]

    def line(self, location: tuple[str | int, ...]) -> int:
        """The line of a field, or of the nearest part around it."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def wrong(self, location: tuple[str | int, ...], problem: str, remedy: str) -> DefinitionError:
        """An error that names file, line, field and remedy."""
        field = ".".join(str(part) for part in location) or "the document"
        return DefinitionError(f"{self.path}:{self.line(location)}: field {field}: {problem}. {remedy}.")


def read(path: Path) -> Document:
    """Read a file that holds one mapping.

    Raises:
        DefinitionError: it cannot be read, is no YAML, or no mapping; a key stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DefinitionError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise DefinitionError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        raise DefinitionError(f"{path}{where}: is not YAML: {getattr(error, 'problem', None) or error}.") from error
    if not isinstance(values, dict) or node is None:
        raise DefinitionError(f"{path}:1: must be a mapping with fields such as name and instructions.")
    lines: dict[tuple[str | int, ...], int] = {}
    _mark(path, node, (), lines)
    return Document(path, values, lines)


def _mark(path: Path, node: yaml.Node, location: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> None:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*location, key.value)
            if place in lines:
                raise DefinitionError(f"{path}:{key.start_mark.line + 1}: field {key.value}: stands twice. Keep one of them.")
            lines[place] = key.start_mark.line + 1
            _mark(path, value, place, lines)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _mark(path, item, (*location, number), lines)


def validate(document: Document, model: type[M], values: dict[str, Any]) -> M:
    """The values as a model.

    Raises:
        DefinitionError: the first field that is wrong, with file, line and remedy.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        location = tuple(first["loc"])
        raise document.wrong(location, *_told(first, model, location)) from None


def _told(problem: Any, model: type[BaseModel], location: tuple[str | int, ...]) -> tuple[str, str]:
    if problem["type"] == "extra_forbidden":
        known = _fields(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        return "is not known", f"Did you mean {close[0]}" if close else f"Known are {', '.join(known)}"
    if problem["type"] == "missing":
        return "is missing", "Add it"
    given = problem.get("input")
    return f"{problem['msg']}" + (f", given {given!r:.60}" if not isinstance(given, dict) else ""), "Correct it"


def _fields(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The fields known at a place within a model."""
    for part in location:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return []
        model = field.annotation
    return list(model.model_fields)
