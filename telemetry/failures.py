"""Exceptions as telemetry may show them: class, place and a short message without secrets; never the values of variables.

Messages of foreign exceptions can quote what they were given. They are cut short and redacted, and pydantic's, which
quote the offending input, are rebuilt without it.
"""

from __future__ import annotations

import traceback
from typing import Final

from pydantic import ValidationError

from workflows.contracts.redaction import redact

MESSAGE_CHARS: Final = 300
_READ_CHARS: Final = 20_000
_FRAMES: Final = 40
_CAUSES: Final = 8


def brief_of(error: BaseException) -> str:
    """`Class: message`, redacted and cut to 300 characters."""
    return f"{type(error).__name__}: {_message_of(error)}"


def traceback_of(error: BaseException) -> str:
    """The traceback with its causes, oldest cause first: frames and source lines as Python prints them, messages as `brief_of`."""
    parts: list[str] = []
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen and len(parts) < _CAUSES:
        seen.add(id(current))
        frames = "".join(traceback.format_list(traceback.extract_tb(current.__traceback__, limit=-_FRAMES)))
        parts.append(f"Traceback (most recent call last):\n{frames}{brief_of(current)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return redact("\n\nwhich led to:\n\n".join(reversed(parts)))


def _message_of(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        found = "; ".join(
            f"{'.'.join(str(part) for part in entry['loc'])}: {entry['type']}"
            for entry in error.errors(include_input=False, include_url=False, include_context=False)
        )
        message = f"{error.error_count()} fields of {error.title} do not fit ({found})"
    else:
        message = str(error)
    # Redacted before it is cut: a key that is cut in half would not be known any more.
    redacted = redact(message[:_READ_CHARS])
    return redacted if len(redacted) <= MESSAGE_CHARS else f"{redacted[:MESSAGE_CHARS]}…"
