"""A Temporal development server of ours, on a SQLite file, with the Web UI."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from devstack.errors import FolderUnusableError, PortInUseError, ServerStartError
from devstack.folder_lock import locked
from devstack.ports import LOOPBACK, claim_port
from devstack.process import ServerPlan, ServerProcess, launch
from devstack.server_settings import NAMESPACE, SQLITE_EPHEMERAL, SQLITE_KEPT, start_arguments

START_WAIT_S: Final = 60.0
STOP_GRACE_S: Final = 10.0
POLL_S: Final = 0.05


@dataclass(frozen=True, kw_only=True)
class TemporalSettings:
    """Which program runs the dev server, where it keeps its state and where it listens."""

    program: Path
    folder: Path | None = None
    """Kept between starts; None for a folder that goes with the server."""
    port: int = 0
    """0 takes a free port, kept until `running` ends."""
    ui_port: int | None = 0
    """As `port`; None leaves the Web UI away."""
    namespace: str = NAMESPACE
    lock_wait_s: float = 10.0
    on_line: Callable[[str], None] | None = None


class TemporalServer:
    """One dev server of ours; `running` starts it, `kill` and `start` take it down and up again on the same ports."""

    def __init__(self, settings: TemporalSettings) -> None:
        self._settings = settings
        self._folder = Path()
        self._lock = -1
        self._port = 0
        self._ui_port: int | None = None
        self._process: ServerProcess | None = None

    @property
    def address(self) -> str:
        """Where clients connect."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def ui_url(self) -> str | None:
        """Where the Web UI is."""
        return None if self._ui_port is None else f"http://{LOOPBACK}:{self._ui_port}"

    @property
    def pid(self) -> int | None:
        """The server's process while it runs."""
        return self._process.pid if self._process and not self._process.ended else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Run the server for the length of the block; yields its address.

        Raises PortInUseError, FolderInUseError, FolderUnusableError or ServerStartError.
        """
        settings = self._settings
        self._folder = await asyncio.to_thread(prepare_folder, settings.folder)
        self._port = claim_port(settings.port, "the Temporal server")
        self._ui_port = None if settings.ui_port is None else claim_port(settings.ui_port, "the Temporal Web UI")
        try:
            async with locked(
                self._folder / "lock", wait_s=settings.lock_wait_s, purpose="which runs Temporal on it", on_wait=settings.on_line
            ) as self._lock:
                try:
                    await self.start()
                    yield self.address
                finally:
                    await self.stop()
        finally:
            if settings.folder is None:
                await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def start(self) -> None:
        """Start the server, inside `running`, after `stop` or `kill`; returns when it answers."""
        claim_port(self._port, "the Temporal server")
        if self._ui_port is not None:
            claim_port(self._ui_port, "the Temporal Web UI")
        self._process = await launch(self._plan())
        try:
            await self._answer(self._process)
        except BaseException:
            await self._process.stop()
            raise

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

    def _plan(self) -> ServerPlan:
        settings = self._settings
        kept = settings.folder is not None
        return ServerPlan(
            name="the Temporal server",
            command=[
                str(settings.program),
                *start_arguments(
                    port=self._port,
                    ui_port=self._ui_port,
                    db_filename=str(self._folder / "temporal.db"),
                    pragmas=SQLITE_KEPT if kept else SQLITE_EPHEMERAL,
                    namespace=settings.namespace,
                ),
            ],
            log=self._folder / "temporal.log",
            cwd=self._folder,
            stop_grace_s=STOP_GRACE_S,
            pass_fds=(self._lock,),
            remove=() if kept else (self._folder,),
        )

    async def _answer(self, process: ServerProcess) -> None:
        give_up = time.monotonic() + START_WAIT_S
        while True:
            try:
                await answers(self.address, self._settings.namespace)
                return
            except (RPCError, RuntimeError) as error:
                if process.ended or time.monotonic() > give_up:
                    raise start_error(process) from error
            await asyncio.sleep(POLL_S)


async def answers(address: str, namespace: str) -> None:
    """Ask a server for its namespace. Raises RPCError or RuntimeError when it does not answer."""
    client = await Client.connect(address, namespace=namespace)
    await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=namespace))


def start_error(process: ServerProcess) -> ServerStartError | PortInUseError:
    """Why the server did not start, from what it logged."""
    tail = process.log_tail()
    if "in use" in tail:
        return PortInUseError(f"the Temporal server found a port in use: {tail.splitlines()[-1]}")
    return ServerStartError(f"the Temporal server did not start: {tail}")


def prepare_folder(folder: Path | None) -> Path:
    """The folder itself, made if it is missing, or a new temporary one. Raises FolderUnusableError."""
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="holdfast-temporal-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderUnusableError(f"the data folder {folder} cannot be made ({error.strerror}): choose another") from error
    return folder.resolve()
