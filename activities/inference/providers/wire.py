"""Small translations that both dialects need."""

from __future__ import annotations

import json
import math
from typing import Any

from workflows.contracts.messages import ModelRequest, Usage

_UNPARSABLE = "unparsable_arguments"
_CHARS_PER_TOKEN = 4


def parsed_arguments(arguments: str) -> dict[str, Any]:
    """A call's arguments as an object; what the model wrote and nobody can parse is wrapped, because servers refuse it raw."""
    if not arguments.strip():
        return {}
    try:
        value = json.loads(arguments)
    except ValueError:
        return {_UNPARSABLE: arguments}
    return value if isinstance(value, dict) else {_UNPARSABLE: arguments}


def arguments_text(arguments: str) -> str:
    """A call's arguments as JSON text that holds an object; text that already does is left as the model wrote it."""
    value = parsed_arguments(arguments)
    return arguments if value and _UNPARSABLE not in value else json.dumps(value)


def fits_strict(schema: Any) -> bool:
    """Whether every object of the schema is closed and requires all its properties, as strict mode demands."""
    if isinstance(schema, list):
        return all(map(fits_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is not False or set(schema.get("required", ())) != set(properties):
            return False
        return all(map(fits_strict, properties.values())) and fits_strict(schema.get("$defs", {}))
    return all(map(fits_strict, schema.values()))


def estimated_usage(request: ModelRequest, output_chars: int) -> Usage:
    """Usage for a server that tells none: four characters a token, so that a call is never booked as free."""
    read = sum(len(message.text) + sum(len(call.arguments) for call in message.tool_calls) for message in request.messages)
    read += sum(len(tool.description) + len(json.dumps(tool.parameters)) for tool in request.tools)
    return Usage(input_tokens=math.ceil(read / _CHARS_PER_TOKEN), output_tokens=max(1, math.ceil(output_chars / _CHARS_PER_TOKEN)))
