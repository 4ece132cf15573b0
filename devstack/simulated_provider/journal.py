"""What the simulated provider saw: one entry a request, in memory and as JSON lines, for tests to compare ledgers with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from workflows.contracts.messages import Usage


class Delivery(StrEnum):
    """How far the answer got."""

    PENDING = "pending"
    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    BROKEN_OFF = "broken_off"


@dataclass(slots=True)
class JournalEntry:
    """One request. Times are seconds since the epoch; `usage` is None when the model did not answer.

    `billed` says whether the provider charges for it: an answer that was generated is charged even when the client had gone.
    """

    sequence: int
    received_at: float
    dialect: str
    request_id: str
    model: str = ""
    key: str = ""
    """The last four characters of the key that was used."""
    idempotency_key: str | None = None
    streamed: bool = False
    finished_at: float | None = None
    status: int = 0
    fault: str | None = None
    delivery: Delivery = Delivery.PENDING
    billed: bool = False
    usage: Usage | None = None
    batch: bool = False
    """It came in a batch: it is charged at half the price."""

    def as_json(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        fields = asdict(self)
        fields["usage"] = self.usage.model_dump() if self.usage else None
        return fields


@dataclass(slots=True)
class Journal:
    """All requests in the order they came. With `path`, each is also written as one JSON line when it is finished."""

    path: Path | None = None
    entries: list[JournalEntry] = field(default_factory=list)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while no request is in the air."""
    _open: int = 0
    _file: IO[str] | None = None

    def __post_init__(self) -> None:
        self.idle.set()

    def begin(self, dialect: str, id_prefix: str) -> JournalEntry:
        """Open the entry of a request that has just come in."""
        sequence = len(self.entries) + 1
        entry = JournalEntry(sequence, time.time(), dialect, request_id=f"{id_prefix}-{sequence}")
        self.entries.append(entry)
        self._open += 1
        self.idle.clear()
        return entry

    def finish(self, entry: JournalEntry, delivery: Delivery) -> None:
        """Close the entry; a second call does nothing, so that every way out of a handler may call it."""
        if entry.finished_at is not None:
            return
        entry.finished_at = time.time()
        entry.delivery = delivery
        self._write(entry)
        self._open -= 1
        if not self._open:
            self.idle.set()

    def _write(self, entry: JournalEntry) -> None:
        if self.path is None:
            return
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(entry.as_json()) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file; the entries stay readable."""
        if self._file is not None:
            self._file.close()
            self._file = None


def billed_usage(entries: Sequence[JournalEntry]) -> Usage:
    """Everything that was charged for, in tokens."""
    return sum((entry.usage for entry in entries if entry.billed and entry.usage), start=Usage())
