"""Questions that a model puts to a person: what it may ask for, and whether an answer fits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema
import referencing
from referencing.exceptions import Unresolvable

PARAMETERS: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "minLength": 1, "description": "What you want to know, with all that a person needs to answer it."},
        "choices": {
            "type": "array",
            "items": {"type": "string", "minLength": 1},
            "minItems": 2,
            "maxItems": 50,
            "description": "The answers to choose from; leave it out for any answer.",
        },
        "answer_schema": {"type": "object", "description": "A JSON schema that the answer must fit; leave it out for any answer."},
    },
    "required": ["question"],
    "additionalProperties": False,
}
"""What the tool `ask_person` takes."""

_PATTERNS: Final = ("pattern", "patternProperties")
"""Regular expressions are not taken from a model: one can be written that never ends."""
_NOTHING: Final[Any] = referencing.Registry()
"""What a schema may refer to beside itself: nothing, and least of all an address on the network."""


def unfit(arguments: Mapping[str, Any]) -> str:
    """Why a question cannot be put to a person; empty when it can."""
    schema = arguments.get("answer_schema")
    if schema is None:
        return ""
    if "choices" in arguments:
        return "give choices or answer_schema, not both"
    for name, value in _pairs(schema):
        if name in _PATTERNS:
            return f"answer_schema: {name} is not offered"
        if name in ("$ref", "$dynamicRef") and not str(value).startswith("#"):
            return f"answer_schema: {name} may only refer to the schema itself"
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        return f"answer_schema is no JSON schema: {error.message[:200]}"
    return ""


def misfit(arguments: Mapping[str, Any], answer: Any) -> str:
    """Why a person's answer does not fit what was asked for; empty when it does."""
    choices = arguments.get("choices")
    if choices is not None:
        return "" if answer in choices else f"answer: must be one of {', '.join(map(json.dumps, choices))}"
    schema = arguments.get("answer_schema")
    if schema is None:
        return "answer: is empty" if answer is None or answer == "" else ""
    try:
        wrong = next(jsonschema.Draft202012Validator(schema, registry=_NOTHING).iter_errors(answer), None)
    except (Unresolvable, RecursionError):
        return "answer: the schema that the agent gave cannot be used; reject the question with a reason"
    if wrong is None:
        return ""
    where = ".".join(["answer", *map(str, wrong.absolute_path)])
    return f"{where}: {wrong.message[:300]}; the answer must fit {json.dumps(schema, ensure_ascii=False)[:500]}"


def told(answer: Any) -> str:
    """An answer as the model is told it."""
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _pairs(schema: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(schema, Mapping):
        for name, value in schema.items():
            yield name, value
            yield from _pairs(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from _pairs(item)
