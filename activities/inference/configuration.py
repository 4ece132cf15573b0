"""The settings a worker works with: what its files say, and over them the configuration in the database, taken over as it changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import structlog

from activities.identity import WORKER
from activities.inference.settings import load, resolved
from state import configuration
from state.background import end
from state.configuration import SEEN_EVERY_S, Taken, Version
from state.notices import Notices
from state.pool import Database
from workflows.contracts.configuration import CHANNEL, overlaid, refuse_unfit
from workflows.contracts.errors import ConfigurationError, UnavailableError, UsageError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.redaction import redact_value

log = structlog.get_logger("holdfast.configuration")

LOOK_EVERY_S = 1.5
"""Heals a lost notice."""
LOOK_BACK = 50
"""How many versions a starting worker looks back for one that fits its files."""

OnChange = Callable[[InferenceSettings], None]


class LiveSettings:
    """Settings that are always the newest that this worker can use.

    A version or a file that contradicts the rest changes nothing here: it is logged as `configuration.refused`, and
    `holdfast config status` shows it. Decisions that were taken by earlier settings stay as they are.
    """

    def __init__(self, database: Database, files: Sequence[Path], environ: Mapping[str, str] = os.environ, *, worker: str = WORKER) -> None:
        self._database = database
        self._environ = environ
        self._worker = worker
        self._base = load(list(files), environ)
        self._applied = Version(0, {})
        self._settings = self._base
        self._refused: tuple[int, str] | None = None
        self._callbacks: list[OnChange] = []
        self._stir = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def settings(self) -> InferenceSettings:
        """What counts now."""
        return self._settings

    @property
    def version(self) -> int:
        """The configuration's version that counts here; 0: the files alone."""
        return self._applied.version

    @property
    def problem(self) -> str | None:
        """Why a later version is not used here; None when the newest is."""
        return self._refused[1] if self._refused else None

    def on_change(self, callback: OnChange) -> None:
        """Call back with new settings before they count. A UsageError that it raises refuses them, and they never count."""
        self._callbacks.append(callback)

    @contextlib.asynccontextmanager
    async def open(self, notices: Notices) -> AsyncIterator[LiveSettings]:
        """Take over the newest version, then follow all changes for the length of the block.

        Raises:
            UnavailableError: the database does not answer.
            ConfigurationError: none of the last versions fits this worker's files; names the field and the remedy.
        """
        await self._begin()
        notices.on(CHANNEL, lambda _version: self._stir.set())
        following = asyncio.create_task(self._follow())
        try:
            yield self
        finally:
            await end(following)
            with contextlib.suppress(UnavailableError):
                await configuration.leave(self._database, self._worker)

    async def refresh(self) -> None:
        """Take over the newest version now, if it is another than the one looked at last.

        Raises:
            UnavailableError: the database does not answer.
        """
        async with self._turn:
            looked_at = self._refused[0] if self._refused else self.version
            if await configuration.newest(self._database) == looked_at:
                return
            found = await configuration.current(self._database)
            try:
                self._apply(self._base, found)
            except UsageError as error:
                self._refuse(found.version, error)
            await self._tell()

    async def take_files(self, files: Sequence[Path]) -> None:
        """Take over changed files.

        Raises:
            DefinitionError: a file is wrong; names the file, the field and the remedy.
            ConfigurationError: they contradict the configuration. Nothing is changed, as with every error.
        """
        base = await asyncio.to_thread(load, list(files), self._environ)
        async with self._turn:
            newest = await configuration.current(self._database)
            try:
                self._apply(base, newest)
            except UsageError as error:
                self._refuse(newest.version, error)
                raise
            finally:
                await self._tell()

    async def _begin(self) -> None:
        """The newest version that fits: one that was refused by all workers must not keep a restarted one from its limits."""
        versions = await configuration.history(self._database, LOOK_BACK)
        first: tuple[int, UsageError] | None = None
        for version in [*versions, Version(0, {})] if len(versions) < LOOK_BACK else versions:
            try:
                self._apply(self._base, version)
                break
            except UsageError as error:
                first = first or (version.version, error)
        else:
            raise ConfigurationError(f"No version of the configuration fits this worker's files: {first[1] if first else ''}")
        if first is not None:
            self._refuse(*first)
        await self._tell()

    def _apply(self, base: InferenceSettings, version: Version) -> None:
        refuse_unfit(version.document)
        new, old = overlaid(base, resolved(version.document, self._environ)), self._settings
        done: list[OnChange] = []
        try:
            for callback in self._callbacks:
                done.append(callback)
                callback(new)
        except UsageError:
            for callback in done:
                callback(old)
            raise
        changed = version.version != self.version
        self._base, self._settings, self._applied, self._refused = base, new, version, None
        if changed:
            log.info("configuration.applied", version=version.version, author=version.author)

    def _refuse(self, version: int, error: UsageError) -> None:
        self._refused = (version, str(error))
        field = error.field if isinstance(error, ConfigurationError) else None
        log.error("configuration.refused", version=version, field=field, problem=str(error), stays_at=self.version)

    async def _tell(self) -> None:
        refused, problem = self._refused or (None, None)
        said = redact_value(self._base.model_dump(mode="json", exclude={"alerts"}))
        await configuration.tell(
            self._database,
            Taken(worker=self._worker, version=self.version, refused=refused, problem=problem, file_settings=said),
        )

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        seen_at = loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._stir.wait()
            self._stir.clear()
            try:
                await self.refresh()
                if loop.time() - seen_at >= SEEN_EVERY_S:
                    await self._tell()
                    seen_at = loop.time()
            except UnavailableError as error:
                log.warning("configuration.unreachable", version=self.version, problem=str(error))
            except Exception as error:  # whatever it was, the next version must be noticed
                log.error("configuration.failed", error_type=type(error).__name__, exc_info=error)
