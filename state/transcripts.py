"""The conversation of a run, one row a step; content lives here and nowhere in Temporal."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter

from state import blobs
from state.pool import Connection, Database
from workflows.contracts.messages import Message, Role
from workflows.contracts.redaction import redact
from workflows.contracts.runs import TOOL_RESULT_LIMIT_BYTES

BYTES_PER_TOKEN = 3.5
"""A cautious first guess for prose and JSON in any script (English has about 4.5, CJK 3)."""
MESSAGE_TOKENS = 6
"""What a provider adds around each message."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the transcript."""

    step: int
    part: int
    agent: str
    message: Message
    blob_id: str | None
    created_at: datetime


def estimate_tokens(message: Message) -> int:
    """A rough count of the tokens a message takes, on the high side."""
    calls = "".join(call.name + call.arguments for call in message.tool_calls)
    return text_tokens(message.text + calls) + MESSAGE_TOKENS * (1 + len(message.tool_calls))


def text_tokens(text: str) -> int:
    """A rough count of the tokens a text takes, on the high side."""
    return math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)


def clean(message: Message) -> Message:
    """The message without secrets, and without what PostgreSQL cannot keep."""
    calls = tuple(call.model_copy(update={"arguments": _clean(call.arguments)}) for call in message.tool_calls)
    return message.model_copy(update={"text": _clean(message.text), "tool_calls": calls})


def storable(text: str) -> str:
    """The text without what PostgreSQL cannot keep: zero bytes are left out, halves of characters become question marks."""
    return text.replace("\x00", "").encode(errors="replace").decode()


def _clean(text: str) -> str:
    return redact(storable(text).replace("\\u0000", ""))


def as_json(message: Message) -> dict[str, Any]:
    """The stored form of a message: what is empty is left out."""
    return message.model_dump(mode="json", exclude_defaults=True) | {"is_error": message.is_error}


def row(step: int, message: Message, *, part: int = 0, summary_through: int | None = None) -> dict[str, Any]:
    """A transcript row as the database functions take it; the message is cleaned here."""
    cleaned = clean(message)
    return {
        "step": step,
        "part": part,
        "message": as_json(cleaned),
        "tokens": estimate_tokens(cleaned),
        "summary_through": summary_through,
    }


def shown_to_model(text: str, limit_bytes: int = TOOL_RESULT_LIMIT_BYTES) -> str:
    """The text, or its head with a notice of what is missing when it is larger than a model should see."""
    body = text.encode()
    if len(body) <= limit_bytes:
        return text
    head = body[:limit_bytes].decode(errors="ignore")
    return f"{head}\n[cut here: the whole result has {len(body)} bytes, a model is shown the first {limit_bytes}]"


async def append(connection: Connection, run_id: str, step: int, agent: str, message: Message, *, part: int = 0) -> None:
    """Write one row; a row that is there already stays as it is. A text over the limit goes to the blob store whole."""
    cleaned = clean(message)
    body = cleaned.text.encode()
    blob_id = await blobs.put(connection, body) if len(body) > TOOL_RESULT_LIMIT_BYTES and message.role is Role.TOOL else None
    shown = cleaned.model_copy(update={"text": shown_to_model(cleaned.text)}) if blob_id else cleaned
    await connection.execute(
        "insert into transcript (run_id, step, part, agent, message, blob_id, tokens) values ($1, $2, $3, $4, $5, $6, $7) "
        "on conflict do nothing",
        run_id,
        step,
        part,
        agent,
        as_json(shown),
        blob_id,
        estimate_tokens(shown),
    )


async def entries(database: Database, run_id: str, *, after_step: int = -1) -> list[Entry]:
    """All rows of a run past a step, in order."""
    rows = await database.fetch(
        "select step, part, agent, message, blob_id, created_at from transcript where run_id = $1 and step > $2 order by step, part",
        run_id,
        after_step,
    )
    return [Entry(r["step"], r["part"], r["agent"], parse(r["message"]), r["blob_id"], r["created_at"]) for r in rows]


async def message_at(database: Database, run_id: str, step: int, part: int = 0) -> Message | None:
    """One row's message, or None."""
    found = await database.fetchval("select message from transcript where run_id = $1 and step = $2 and part = $3", run_id, step, part)
    return None if found is None else parse(found)


def parse(stored: dict[str, Any] | str) -> Message:
    """A stored message as the contracts' type."""
    return Message.model_validate(json.loads(stored) if isinstance(stored, str) else stored)


_MESSAGES: Final = TypeAdapter(tuple[Message, ...])


def parse_all(stored: str) -> tuple[Message, ...]:
    """A JSON array of stored messages as the contracts' type."""
    return _MESSAGES.validate_json(stored)
