"""The run's record of people and dead letters: numbered here, written down behind the run's back, complete before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows.contracts import policies, stubs
from workflows.contracts.people import Filed, Note, RecordRequest
from workflows.contracts.runs import Parked

BATCH: Final = 50
RETRY_FIRST_S: Final = 60.0
RETRY_AT_MOST_S: Final = 3_600.0


class Scribe:
    """Writes in the order in which things happened; while nothing happens it costs nothing."""

    def __init__(self, request: Callable[[], RecordRequest], numbered: int) -> None:
        self._request = request
        self._numbered = numbered
        self._entries: list[Note | Filed] = []
        self._writing: asyncio.Task[None] | None = None

    @property
    def numbered(self) -> int:
        """How many notes and dead letters have a number, for continue-as-new."""
        return self._numbered

    def note(self, **fields: Any) -> None:
        """Write down an order and what became of it."""
        self._add(Note(number=self._next(), at=workflow.now(), **fields))

    def file(self, parked: Parked, **fields: Any) -> Parked:
        """Have a step that cannot go on filed as a dead letter; gives it with its number."""
        numbered = parked.model_copy(update={"letter": self._next()})
        self._add(Filed(at=workflow.now(), parked=numbered, **fields))
        return numbered

    @property
    def busy(self) -> bool:
        """Whether something is yet to be written down."""
        return self._writing is not None and not self._writing.done()

    def _next(self) -> int:
        self._numbered += 1
        return self._numbered

    def _add(self, entry: Note | Filed) -> None:
        self._entries.append(entry)
        if not self.busy:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        wait_s = RETRY_FIRST_S
        while self._entries:
            batch = self._entries[:BATCH]
            request = self._request().model_copy(
                update={
                    "notes": tuple(entry for entry in batch if isinstance(entry, Note)),
                    "filed": tuple(entry for entry in batch if isinstance(entry, Filed)),
                }
            )
            try:
                await workflow.execute_activity(
                    stubs.keep_record, request, summary=f"record {len(batch)} of people and dead letters", **policies.PEOPLE.options()
                )
            except ActivityError:
                workflow.logger.error("record.failed", extra={"entries": len(self._entries), "again_in_s": wait_s})
                await workflow.sleep(wait_s, summary="the record could not be written")
                wait_s = min(2 * wait_s, RETRY_AT_MOST_S)
            else:
                wait_s = RETRY_FIRST_S
                del self._entries[: len(batch)]
