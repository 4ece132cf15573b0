"""JSON schemas of definitions, checked when they are read: a wrong one would fail at the first answer of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import jsonschema

from activities.agents.documents import Document, Location


def check_parameters(document: Document, location: Location, schema: Mapping[str, Any]) -> None:
    """Refuse parameters that are no schema of an object.

    Raises:
        DefinitionError: with file, line, field and remedy.
    """
    check(document, location, schema)
    if schema.get("type") != "object" or not isinstance(schema.get("properties", {}), Mapping):
        raise document.wrong(location, "must be a schema of type object", "Write {type: object, properties: {…}, required: […]}")


def check(document: Document, location: Location, schema: Mapping[str, Any]) -> None:
    """Refuse what is no JSON schema.

    Raises:
        DefinitionError: with file, line, field and remedy.
    """
    try:
        json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise document.wrong(location, f"holds what JSON cannot hold: {error}", "Put dates and the like into quotes") from error
    try:
        jsonschema.validators.validator_for(dict(schema), jsonschema.Draft202012Validator).check_schema(dict(schema))
    except jsonschema.SchemaError as error:
        problem = f"is no JSON schema: {error.message[:200]}"
        raise document.wrong((*location, *error.absolute_path), problem, "Correct it there") from error
