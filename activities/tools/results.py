"""What a tool returned, as the text a model is shown."""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pydantic_core

RESULT_LIMIT_BYTES = 32 * 1024 * 1024
"""More than this of one result is not kept."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A tool's result as text; `lost` when it could not be written."""

    text: str
    lost: bool = False


def as_text(value: Any) -> Returned:
    """Text as it is; nothing as `done`; anything else as JSON, if it can be written so."""
    if isinstance(value, str):
        return Returned(_bounded(value))
    if value is None:
        return Returned("done")
    try:
        return Returned(_bounded(pydantic_core.to_json(value).decode()))
    except Exception as error:  # a model's own serializer may raise anything
        kind, why = type(value).__name__, str(error).splitlines() or [type(error).__name__]
        return Returned(f"The tool ran, but returned a {kind}, which cannot be written as JSON ({why[0][:200]}).", lost=True)


def digest(text: str) -> str:
    """A short hash by which results are told apart."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


def arguments_digest(raw: str) -> str:
    """A hash of a call's arguments that does not depend on how their JSON is laid out."""
    with contextlib.suppress(ValueError):  # two texts that are no JSON are the same when they are the same text
        raw = json.dumps(json.loads(raw or "{}"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(raw.encode(errors="replace")).hexdigest()[:32]


def _bounded(text: str) -> str:
    body = text.encode(errors="replace")
    if len(body) <= RESULT_LIMIT_BYTES:
        return body.decode()
    return f"{body[:RESULT_LIMIT_BYTES].decode(errors='ignore')}\n[cut here: the whole result has {len(body)} bytes, which are not kept]"
