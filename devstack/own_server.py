"""What our servers have in common: a data folder under a lock, a start that waits for an answer, an end that is sure."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, Self

from devstack.errors import FolderUnusableError, PortInUseError, ServerStartError
from devstack.folder_lock import locked
from devstack.process import ServerPlan, ServerProcess, launch

START_WAIT_S: Final = 60.0
POLL_S: Final = 0.03
STARTS: Final = 3
PORT_TAKEN: Final = ("already in use", "is in use")


class OwnServer(abc.ABC):
    """A server of ours. `running` starts it; inside, `kill` or `stop` and `start` take it down and up on the same ports."""

    name: str

    def __init__(self, folder: Path | None, *, lock_wait_s: float, on_line: Callable[[str], None] | None) -> None:
        self.kept = folder is not None
        self.folder = folder or Path()
        self._lock_wait_s = lock_wait_s
        self._on_line = on_line
        self._lock = -1
        self._process: ServerProcess | None = None

    @property
    def pid(self) -> int | None:
        """The server's process while it runs."""
        return self._process.pid if self._process and not self._process.ended else None

    @property
    def supervisor_pid(self) -> int | None:
        """The process that ends the server when we are gone."""
        return self._process.supervisor_pid if self._process and not self._process.ended else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Run the server for the length of the block.

        Raises PortInUseError, FolderInUseError, FolderUnusableError, BinaryMissingError or ServerStartError.
        """
        self.folder = await asyncio.to_thread(self._open_folder)
        purpose = f"which runs {self.name} on it"
        try:
            async with locked(self.folder / "lock", wait_s=self._lock_wait_s, purpose=purpose, on_wait=self._on_line) as self._lock:
                try:
                    self._claim_ports(first=True)
                    await self._prepare()
                    await self._start(first=True)
                    yield self
                finally:
                    await self.stop()
        finally:
            if not self.kept:
                await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    async def start(self) -> None:
        """Start the server again, inside `running`, after `stop` or `kill`; returns when it answers."""
        await self._start(first=False)

    async def stop(self) -> None:
        """End the server in order."""
        if self._process is not None:
            await self._process.stop()
            self._process = None

    async def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            await self._process.kill()
            self._process = None

    @abc.abstractmethod
    def _claim_ports(self, *, first: bool) -> None:
        """Choose the ports, or see that the chosen ones are free. Raises PortInUseError."""

    @abc.abstractmethod
    async def _prepare(self) -> None:
        """Make the data folder's content before the first start."""

    @abc.abstractmethod
    def _plan(self) -> ServerPlan:
        """How to run the server now."""

    @abc.abstractmethod
    async def _answers(self) -> bool:
        """Whether the server does its work; False while it starts. Raises ServerStartError when it never will."""

    def _open_folder(self) -> Path:
        if not self.kept:
            temporary = Path(tempfile.mkdtemp(prefix="holdfast-"))
            temporary.chmod(0o711)  # a server under another account must pass through; what is inside stays closed
            return temporary
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderUnusableError(f"the data folder {self.folder} cannot be made ({error.strerror}): choose another") from error
        return self.folder.resolve()

    async def _start(self, *, first: bool) -> None:
        """Launch and wait; again when another program was faster to take one of the ports that were free a moment ago."""
        for starts_left in reversed(range(STARTS)):
            self._claim_ports(first=first)
            self._process = await launch(self._plan())
            try:
                await self._wait_for_answer(self._process)
                return
            except PortInUseError:
                await self._process.stop()
                if not starts_left:
                    raise
            except BaseException:
                await self._process.stop()
                raise

    async def _wait_for_answer(self, process: ServerProcess) -> None:
        give_up = time.monotonic() + START_WAIT_S
        while not await self._answers():
            if process.ended:
                tail = process.log_tail()
                kind = PortInUseError if any(words in tail for words in PORT_TAKEN) else ServerStartError
                raise kind(f"{self.name} did not start: {tail}")
            if time.monotonic() > give_up:
                raise ServerStartError(f"{self.name} did not answer within {START_WAIT_S:g} s: {process.log_tail()}")
            await asyncio.sleep(POLL_S)
