"""YAML documents with line numbers, so that a wrong field can be named where it stands."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from workflows.contracts.errors import DefinitionError

M = TypeVar("M", bound=BaseModel)

Location = tuple[str | int, ...]

_TEXT_TAG = "tag:yaml.org,2002:str"
_MERGE_TAG = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class Document:
    """A YAML mapping and where its parts stand in the file."""

    path: Path
    values: dict[str, Any]
    lines: dict[Location, int]
    written: dict[Location, str]
    """Plain values as the file has them: 1.10 is a number to YAML, and a version to people."""

    def line(self, location: Location) -> int:
        """The line of a field, or of the nearest part around it."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)

    def wrong(self, location: Location, problem: str, remedy: str) -> DefinitionError:
        """An error that names file, line, field and remedy."""
        return _wrong(self.path, self.line(location), location, problem, remedy)


def read(path: Path) -> Document:
    """Read a file that holds one mapping.

    Raises:
        DefinitionError: it cannot be read, is no YAML, or no mapping; a key stands twice or is no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DefinitionError(f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from error
    except OSError as error:
        raise DefinitionError(f"{path}: cannot be read ({error.strerror}). Make it readable, or take it out of the folder.") from error
    lines: dict[Location, int] = {}
    written: dict[Location, str] = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _mark(path, node, (), lines, written)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise DefinitionError(f"{path}{where}: is not YAML: {problem}. Correct it there, or in the line before.") from error
    except RecursionError as error:
        raise DefinitionError(f"{path}: is nested too deep, or contains itself. Write it out flat.") from error
    except ValueError as error:  # a date or a number that YAML recognises, and that does not exist
        raise DefinitionError(f"{path}: holds a value that cannot be read: {error}. Put it into quotes.") from error
    if not isinstance(values, dict):
        raise DefinitionError(f"{path}:1: must be a mapping with fields such as name and instructions.")
    return Document(path, values, lines, written)


def _mark(path: Path, node: yaml.Node, location: Location, lines: dict[Location, int], written: dict[Location, str]) -> None:
    line = node.start_mark.line + 1
    lines.setdefault(location, line)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*location, _key(path, key, location))
            if place in lines:
                raise _wrong(path, key.start_mark.line + 1, place, "stands twice", "Keep one of them")
            lines[place] = key.start_mark.line + 1
            _mark(path, value, place, lines, written)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            _mark(path, item, (*location, number), lines, written)
    elif isinstance(node.value, str):
        if "\x00" in node.value or any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _wrong(path, line, location, "holds a character that cannot be stored", "Take the zero byte or half surrogate out")
        written[location] = node.value


def _key(path: Path, key: yaml.Node, location: Location) -> str:
    if isinstance(key, yaml.ScalarNode) and key.tag in (_TEXT_TAG, _MERGE_TAG):
        return str(key.value)
    said = f"the name {key.value} is no text to YAML" if isinstance(key, yaml.ScalarNode) else "a name must be a text"
    raise _wrong(path, key.start_mark.line + 1, location, said, "Put the name into quotes")


def _wrong(path: Path, line: int, location: Location, problem: str, remedy: str) -> DefinitionError:
    field = ".".join(str(part) for part in location) or "the document"
    return DefinitionError(f"{path}:{line}: field {field}: {problem}. {remedy}{'' if remedy.endswith(('.', '?')) else '.'}")


def validate(document: Document, model: type[M], values: dict[str, Any]) -> M:
    """The values as a model.

    Raises:
        DefinitionError: the first field that is wrong, with file, line and remedy.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A misspelt field is missing too: the spelling is what there is to mend.
        first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
        location = tuple(first["loc"])
        if first["type"] not in ("extra_forbidden", "missing"):
            while len(location) > 1 and location not in document.lines:  # the names of a union's branches
                location = location[:-1]
        raise document.wrong(location, *_told(first, model, location)) from None


def closest(name: str, known: Iterable[str]) -> str:
    """A remedy for a name that is not known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known are {', '.join(names) or 'none'}"


def _told(problem: Any, model: type[BaseModel], location: Location) -> tuple[str, str]:
    if problem["type"] == "extra_forbidden":
        return "is not known", closest(str(location[-1]), _fields(model, location[:-1]))
    if problem["type"] == "missing":
        return "is missing", "Add it"
    given = problem.get("input")
    return f"{problem['msg']}" + (f", given {given!r:.60}" if not isinstance(given, dict) else ""), "Correct it"


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    """The fields known at a place within a model."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = _model_of(field.annotation) if field is not None else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a field's annotation, `Model | None` included."""
    choices = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)), None)
