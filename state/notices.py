"""What other processes announce (LISTEN/NOTIFY): one connection for a whole process, found again by itself after an outage."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import structlog

from state.background import end
from state.pool import Connection, Database
from workflows.contracts.errors import UnavailableError

log = structlog.get_logger("holdfast.notices")

LOOK_AGAIN: Final = ""
"""The payload after a (re)connect: whatever was announced in between is lost, so look for yourself."""
PROVE_EVERY_S = 5.0
"""How often a silent connection is asked whether it still lives."""
RETRY_FIRST_S = 0.1
RETRY_AT_MOST_S = 2.0

Callback = Callable[[str], None]


class Notices:
    """Hands what is announced on a channel to its callbacks, in the order of arrival.

    A notice can be lost with the connection; then every callback gets `LOOK_AGAIN` as soon as there is a new one. Who must not
    miss anything while the database is away keeps a poll beside it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._callbacks: dict[str, list[Callback]] = defaultdict(list)
        self._stir = asyncio.Event()

    def on(self, channel: str, callback: Callback) -> None:
        """Call back with every payload on the channel, and with `LOOK_AGAIN` after every (re)connect.

        Callbacks run on the event loop and must not block; what one raises is logged, and the others are called all the same.
        """
        self._callbacks[channel].append(callback)
        self._stir.set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Notices]:
        """Listen for the length of the block. It does not wait for the first connection: `LOOK_AGAIN` tells when it stands."""
        listening = asyncio.create_task(self._listen_always())
        try:
            yield self
        finally:
            await end(listening)

    async def _listen_always(self) -> None:
        wait_s = RETRY_FIRST_S
        while True:
            try:
                async with self._database.listener() as connection:
                    wait_s = RETRY_FIRST_S
                    await self._listen(connection)
            except UnavailableError as error:
                log.warning("notices.lost", problem=str(error), again_in_s=wait_s)
            except Exception as error:  # whatever it was, the other workers go on announcing
                log.error("notices.failed", error_type=type(error).__name__, exc_info=error, again_in_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, RETRY_AT_MOST_S)

    async def _listen(self, connection: Connection) -> None:
        """Listen on every channel that has a callback until the connection is lost."""
        connection.add_termination_listener(lambda _connection: self._stir.set())
        heard: set[str] = set()
        while True:
            self._stir.clear()
            for channel in self._callbacks.keys() - heard:
                await connection.add_listener(channel, self._arrived)
                heard.add(channel)
                self._tell(channel, LOOK_AGAIN)
            await connection.execute("select 1")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PROVE_EVERY_S):
                    await self._stir.wait()

    def _arrived(self, _connection: Any, _pid: int, channel: str, payload: object) -> None:
        self._tell(channel, str(payload))

    def _tell(self, channel: str, payload: str) -> None:
        for callback in tuple(self._callbacks[channel]):
            try:
                callback(payload)
            except Exception as error:
                log.error("notices.callback_failed", channel=channel, error_type=type(error).__name__, exc_info=error)
