"""Reads what people send: anybody can send anything by the Temporal UI, and nothing of it may fail or block a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from temporalio.common import RawValue

from workflows.contracts.messages import Frozen
from workflows.contracts.people import NOBODY, ORDERS
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact

ORDER_LIMIT_BYTES: Final = 256 * 1024
"""More than this is refused unread; it is in the history already, and must not go through it again."""
_SHOWN_CHARS = 400


@dataclass(frozen=True, slots=True)
class Sent:
    """An order as it was read."""

    name: str
    given: str
    """What was sent, redacted and cut, for the record."""
    order: Frozen | None = None
    problem: str = ""
    """Why it is no order: the field and the remedy."""

    @property
    def by(self) -> str:
        """Who says to have sent it."""
        return getattr(self.order, "by", NOBODY)


def read_signal(name: str, given: Sequence[RawValue]) -> Sent:
    """A signal's payloads as an order; nothing at all means the defaults."""
    payloads = [value.payload for value in given]
    shown = _shown(b" ".join(payload.data[:_SHOWN_CHARS] for payload in payloads).decode(errors="replace"))
    if len(payloads) > 1:
        return Sent(_named(name), shown, problem=f"{len(payloads)} values were sent; a signal takes one JSON object")
    if not payloads:
        return read(name, {})
    (payload,) = payloads
    encoding = payload.metadata.get("encoding", b"").decode(errors="replace")
    if encoding != "json/plain":
        problem = f"it is encoded as {encoding[:40] or 'nothing known'}; send one JSON object, encoded as json/plain"
        return Sent(_named(name), shown, problem=problem)
    if len(payload.data) > ORDER_LIMIT_BYTES:
        return Sent(_named(name), shown, problem=f"it has {len(payload.data)} bytes, at most {ORDER_LIMIT_BYTES} are read")
    try:
        value = json.loads(payload.data)
    except RecursionError:
        return Sent(_named(name), shown, problem="it is nested too deep to be read")
    except ValueError as error:
        return Sent(_named(name), shown, problem=f"it is not JSON: {error}")
    return read(name, value, shown)


def read(name: str, value: Any, shown: str | None = None) -> Sent:
    """A JSON value as the order of this name."""
    text = _shown(json.dumps(value, ensure_ascii=False, default=str)) if shown is None else shown
    kind = ORDERS.get(name)
    if kind is None:
        return Sent(_named(name), text, problem=f"there is no order of this name; there are {', '.join(ORDERS)}")
    if not isinstance(value, dict):
        return Sent(name, text, problem=f"{name} takes one JSON object with {', '.join(kind.model_fields)}")
    try:
        return Sent(name, text, order=kind.model_validate(value))
    except ValidationError as error:
        return Sent(name, text, problem=_problem(kind, error))
    except (ValueError, RecursionError):
        return Sent(name, text, problem="it cannot be read")


def _problem(kind: type[Frozen], error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "the object"
    known = f"; the fields are {', '.join(kind.model_fields)}" if first["type"] == "extra_forbidden" else ""
    return redact(f"{field[:80]}: {first['msg'][:200]}{known}")


def _shown(text: str) -> str:
    return one_line(redact(text[:_SHOWN_CHARS]))


def _named(name: str) -> str:
    return redact(name[:100])
