"""What a tool returned, as the text a model is shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import pydantic_core


@dataclass(frozen=True, slots=True)
class Returned:
    """A tool's result as text; `wrong` says why it could not be written."""

    text: str
    wrong: bool = False


def as_text(value: Any) -> Returned:
    """Text as it is; nothing as `done`; anything else as JSON, if it can be written so."""
    if isinstance(value, str):
        return Returned(value.encode(errors="replace").decode())
    if value is None:
        return Returned("done")
    try:
        return Returned(pydantic_core.to_json(value).decode())
    except (pydantic_core.PydanticSerializationError, ValueError, RecursionError):
        kind = type(value).__name__
        return Returned(f"The tool ran, but returned a {kind}, which cannot be written as JSON; its result is not known.", wrong=True)


def digest(text: str) -> str:
    """A short hash by which results are told apart."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]
