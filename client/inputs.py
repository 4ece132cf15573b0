"""What may start a run: inputs that can be kept and shown to a model, and the names a run goes by."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from workflows.contracts.agents import Limits
from workflows.contracts.errors import InputTooLargeError, InvalidInputError
from workflows.contracts.inference import Priority
from workflows.contracts.runs import INPUT_LIMIT_BYTES

Input = str | Mapping[str, Any] | list[Any] | BaseModel
"""Text, or data that a model is shown as JSON."""

NAME_LIMIT_CHARS: Final = 200
"""Of a tenant, a user, a key: what Temporal's search attributes hold (255) with room to spare."""

_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_ID_CHARS: Final = 10
_KEYED_CHARS: Final = 20


def read_input(value: Input) -> str:
    """The input as the text that a model is shown.

    Raises:
        InvalidInputError: it is empty, cannot be written as JSON, or holds what is no Unicode text.
        InputTooLargeError: it is over the limit; the message has both figures.
    """
    text = value if isinstance(value, str) else _as_json(value)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"The input is no valid Unicode text: character {error.start} is half of a surrogate pair. Decode it as UTF-8 first."
        ) from error
    if size > INPUT_LIMIT_BYTES:
        raise InputTooLargeError(
            f"The input has {size} bytes; at most {INPUT_LIMIT_BYTES} are accepted. Keep large content where a tool can read it."
        )
    if not text.replace("\x00", "").strip():
        raise InvalidInputError("The input is empty: say what the agent should do.")
    return text


def decode(body: bytes, source: str) -> str:
    """The text of a file or stream.

    Raises:
        InputTooLargeError: it is over the limit.
        InvalidInputError: it is not UTF-8; the message says where.
    """
    if len(body) > INPUT_LIMIT_BYTES:
        raise InputTooLargeError(f"{source} has {len(body)} bytes; at most {INPUT_LIMIT_BYTES} are accepted as input.")
    return decode_text(body, source)


def decode_text(body: bytes, source: str) -> str:
    """The same for a file of many inputs, which may be of any size."""
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{source} is not UTF-8: byte {error.start} cannot be read ({error.reason}).") from error


def check_name(value: str, field: str) -> str:
    """A tenant, a user or a key that the database and Temporal can hold.

    Raises:
        InvalidInputError: naming the field.
    """
    if not value.strip() or len(value) > NAME_LIMIT_CHARS or not value.isprintable():
        raise InvalidInputError(f"{field} must have 1 to {NAME_LIMIT_CHARS} printable characters; it is {value[:40]!r}.")
    return value


def check_names(**names: str | None) -> None:
    """The same for each that is given."""
    for field, value in names.items():
        if value is not None:
            check_name(value, field)


def read_priority(priority: Priority | str | None) -> Priority | None:
    """A priority by its name.

    Raises:
        InvalidInputError: there is none of that name; names those there are.
    """
    try:
        return None if priority is None else Priority(priority)
    except ValueError as error:
        raise InvalidInputError(f"priority must be one of {', '.join(Priority)}; it is {priority!r}.") from error


def check_run_id(run_id: str) -> str:
    """A run id that a caller chose. Dots are left to the ids of sub-runs.

    Raises:
        InvalidInputError: it is no such id.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidInputError(f"run_id must be letters, digits, - and _, at most 128; it is {run_id[:40]!r}.")
    return run_id


def choose_run_id(agent: str, tenant: str, key: str | None, run_id: str | None) -> str:
    """The caller's own id, or the one that its key gives, or a new one.

    Raises:
        InvalidInputError: the caller's is no run id.
    """
    if run_id is not None:
        return check_run_id(run_id)
    return keyed_run_id(agent, tenant, key) if key is not None else new_run_id(agent)


def new_run_id(agent: str) -> str:
    """An id that sorts by time: the agent, 48 bits of milliseconds, 50 bits of chance."""
    return f"{agent}-{_base32(time.time_ns() // 1_000_000, _ID_CHARS)}{_base32(secrets.randbits(50), _ID_CHARS)}"


def keyed_run_id(agent: str, tenant: str, key: str) -> str:
    """The id that an idempotency key of a tenant always gives."""
    digest = hashlib.sha256(f"{tenant}\x00{key}".encode()).digest()
    return f"{agent}-{_base32(int.from_bytes(digest), _KEYED_CHARS)}"


def body_hash(agent: str, text: str, user: str | None, limits: Limits | None) -> str:
    """What a second start with the same key must repeat. The definition is left out: after a deploy it is still the same run."""
    body = {"agent": agent, "input": text, "user": user, "limits": limits.model_dump(mode="json") if limits else None}
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _as_json(value: Input) -> str:
    try:
        data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        return json.dumps(data, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"The input cannot be written as JSON: {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON value")


def _base32(number: int, chars: int) -> str:
    return "".join(_ALPHABET[(number >> 5 * place) & 31] for place in reversed(range(chars)))
