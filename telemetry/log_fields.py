"""What happens to a log line before it is written: who it is for, no content, no secrets. All as structlog processors."""

from __future__ import annotations

import datetime
import logging
import sys
from collections.abc import Mapping, MutableMapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import structlog
from opentelemetry import trace
from temporalio import workflow

from telemetry import names
from telemetry.context import bound
from telemetry.failures import brief_of, traceback_of
from workflows.contracts.redaction import redact_value

EventDict = MutableMapping[str, Any]

TEXT_CHARS: Final = 2_000
"""Longer texts are cut: a log line says what happened, it does not carry documents."""

CONTENT_NAMES: Final = frozenset(
    (
        *("answer", "argument", "arguments", "args", "body", "completion", "content", "contents", "conversation", "html", "input"),
        *("instructions", "markdown", "message", "messages", "output", "payload", "prompt", "prompts", "question", "reply"),
        *("response", "result", "results", "text", "texts", "transcript"),
    )
)
"""A field whose last word is one of these holds what a user, a model or a tool said, and is left out."""

_LEFT_OUT: Final = "withheld"
_TEMPORAL_FIELDS: Final = ("workflow_id", "workflow_type", "activity_type", "attempt")
_PLAIN: Final = (bool, int, float, type(None))


def drop_replayed(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Leave out what a workflow logs while its history is replayed: it was written when it happened."""
    if workflow.in_workflow() and workflow.unsafe.is_replaying():
        raise structlog.DropEvent
    return event


def add_run(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add run, step, agent and tenant that are bound, and the trace that is open; fields of the call itself win."""
    for name, value in bound().items():
        event.setdefault(name, value)
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault(names.LOG_TRACE, trace.format_trace_id(context.trace_id))
        event.setdefault(names.LOG_SPAN, trace.format_span_id(context.span_id))
    return event


def add_temporal(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Read what Temporal's own loggers attach to their records: which workflow or activity, or the core's fields."""
    record = event.get("_record")
    if not isinstance(record, logging.LogRecord):
        return event
    told: Mapping[str, Any] = getattr(record, "temporal_activity", None) or getattr(record, "temporal_workflow", None) or {}
    for name in _TEMPORAL_FIELDS:
        if name in told and not (name == "workflow_id" and event.get(names.LOG_RUN) == told[name]):
            event.setdefault(name, told[name])
    core = getattr(record, "temporal_log", None)
    if core is not None:
        event["target"] = core.target
        event["core"] = dict(core.fields)
    return event


def describe_exception(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Turn `exc_info` into `error_type` and a traceback without values of variables."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else sys.exc_info()[1] if info else None
    if error is not None:
        event.setdefault("error_type", type(error).__name__)
        event["exception"] = traceback_of(error)
    return event


def withhold_content(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Leave out fields that hold content, and say which: `withheld=["arguments"]`. Counts and flags of such names stay."""
    left_out: list[str] = []
    kept = {
        name: value if name in ("event", "exception", "_record") else _without_content(value, left_out)
        for name, value in event.items()
        if not _holds_content(name, value, left_out)
    }
    if left_out:
        kept[_LEFT_OUT] = sorted(set(left_out))
    return kept


def redact_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Take the secrets out of all that is left. Always the last processor before the rendering."""
    record, from_structlog = event.pop("_record", None), event.pop("_from_structlog", None)
    redacted: EventDict = redact_value(dict(event))
    if record is not None:
        redacted.update(_record=record, _from_structlog=from_structlog)
    return redacted


def _holds_content(name: str, value: Any, left_out: list[str]) -> bool:
    content = name.lower().rpartition("_")[2] in CONTENT_NAMES and not isinstance(value, _PLAIN)
    if content:
        left_out.append(name)
    return content


def _without_content(value: Any, left_out: list[str]) -> Any:
    """The value in JSON's types. Objects whose fields we do not know are named by their class only."""
    if isinstance(value, Enum):
        return _without_content(value.value, left_out)
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, str):
        return value if len(value) <= TEXT_CHARS else f"{value[:TEXT_CHARS]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {
            str(key): _without_content(entry, left_out) for key, entry in value.items() if not _holds_content(str(key), entry, left_out)
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_without_content(item, left_out) for item in value]
    if isinstance(value, BaseException):
        return brief_of(value)
    if isinstance(value, Decimal | UUID | PurePath | datetime.timedelta):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return f"<{type(value).__name__}>"
