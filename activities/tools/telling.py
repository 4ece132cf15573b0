"""What people, models and logs may be told of a tool's failure, and whether it is the activity itself that is being cancelled."""

from __future__ import annotations

import asyncio
from typing import Any

from workflows.contracts.redaction import redact, redact_value
from workflows.contracts.runs import PREVIEW_CHARS

TOLD_CHARS = 2_000


def told(text: str) -> str:
    """What a model, a log or a history may be told of a failure."""
    return redact(text[: 2 * TOLD_CHARS])[:TOLD_CHARS]


def said(error: BaseException) -> str:
    """A failure in words: its class and its message, or a time-out's own message."""
    return told(str(error) if isinstance(error, TimeoutError) and str(error) else f"{type(error).__name__}: {error}")


def beat(detail: Any) -> Any:
    """What a tool's heartbeat may carry into the history."""
    safe = redact_value(detail)
    return safe if isinstance(safe, bool | int | float | None) else str(safe)[:PREVIEW_CHARS]


def being_cancelled() -> bool:
    """Whether this activity is being cancelled; a tool may also let a cancellation of its own escape."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
