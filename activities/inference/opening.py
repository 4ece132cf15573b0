"""Opens what the settings name: the keys that can be read on this worker, and the router over them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping

import structlog

from activities.identity import WORKER
from activities.inference.keys import LOOK_EVERY_S, Keyring, KeyView, OnRenewed
from activities.inference.routing import Router
from state import worker_keys
from state.background import end
from state.pool import Database
from workflows.contracts.errors import UnavailableError
from workflows.contracts.inference import InferenceSettings

log = structlog.get_logger("holdfast.inference")


class ConfiguredInference:
    """The router and the keys that the settings name. What a change replaces stays open for the calls in the air."""

    def __init__(self, environ: Mapping[str, str], *, worker: str = WORKER, clock: Callable[[], float] = time.monotonic) -> None:
        self.keyring = Keyring(environ, clock)
        self._worker = worker
        self._settings: InferenceSettings | None = None
        self._current: tuple[Router, KeyView] | None = None

    def take(self, settings: InferenceSettings) -> tuple[Router, KeyView]:
        """Router and keys by these settings; the same ones as before when nothing has changed.

        Raises:
            SettingsError: a key or address cannot be used; names the variable or the provider.
        """
        if self._current is None or settings != self._settings:
            keys = self.keyring.view(settings)
            self._settings, self._current = settings, (Router(settings), keys)
        return self._current

    @contextlib.asynccontextmanager
    async def following(self, database: Database, on_renewed: OnRenewed | None = None) -> AsyncIterator[None]:
        """Wait for the keys that commands print; then read all keys again and again for the length of the block, and tell of them."""
        if on_renewed is not None:
            self.keyring.on_renewed(on_renewed)
        await self.keyring.ready()
        task = asyncio.create_task(self._follow(database))
        try:
            yield
        finally:
            await end(task)
            with contextlib.suppress(UnavailableError):
                await worker_keys.leave(database, self._worker)

    async def aclose(self) -> None:
        """Close every connection."""
        await self.keyring.aclose()

    async def _follow(self, database: Database) -> None:
        told, told_at = None, 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                await self.keyring.check()
                states = self.keyring.states()
                if states != told or loop.time() - told_at >= worker_keys.SEEN_EVERY_S:
                    rows = [worker_keys.KeyRow(each.provider, each.key, each.source, each.problem) for each in states]
                    await worker_keys.tell(database, self._worker, rows)
                    told, told_at = states, loop.time()
            except UnavailableError as error:
                log.warning("keys.not_told", problem=str(error))
            except Exception as error:  # whatever it was, the next rotation must be noticed
                log.error("keys.failed", error_type=type(error).__name__, exc_info=error)
            await asyncio.sleep(LOOK_EVERY_S)
