"""An embedded PostgreSQL: packaged programs, our own launcher (why: docs/adr/0002)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from devstack import postgres_binaries
from devstack.errors import ServerStartError
from devstack.folder_lock import locked
from devstack.ports import LOOPBACK, claim_port
from devstack.postgres_cluster import clean_environment, forget_dead_server, make_cluster, needs_capability, prepare_folder
from devstack.process import ServerPlan, ServerProcess, launch

USER: Final = "holdfast"
DATABASE: Final = "holdfast"
START_WAIT_S: Final = 60.0
STOP_GRACE_S: Final = 15.0
POLL_S: Final = 0.02

TUNING: Final = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # TCP only: no socket path that could be too long or left behind
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "minimal",  # nothing replicates from here
    "max_wal_senders": "0",
    "max_parallel_workers_per_gather": "0",  # short queries; and containers give little /dev/shm
    "jit": "off",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "logging_collector": "off",
}
"""What differs from PostgreSQL's own defaults. Durability is left as it is: fsync on, commits synchronous."""

EPHEMERAL: Final = {"fsync": "off", "full_page_writes": "off"}
"""For data nobody keeps. Commits stay synchronous: what was acknowledged outlives a crash of the server, not of the machine."""


@dataclass(frozen=True, kw_only=True)
class PostgresSettings:
    """Where an embedded PostgreSQL keeps its data and listens."""

    folder: Path | None = None
    """Kept between starts; None for a folder that goes with the server (and needs no fsync)."""
    port: int = 0
    """0 takes a free port, kept until `close`."""
    lock_wait_s: float = 10.0
    on_line: Callable[[str], None] | None = None
    """Told, in one line, what takes long."""


class EmbeddedPostgres:
    """One PostgreSQL server of ours; `running` starts it, `kill` and `start` take it down and up again on the same port."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._folder = Path()
        self._lock = -1
        self._port = 0
        self._password = ""
        self._process: ServerProcess | None = None

    @property
    def dsn(self) -> str:
        """The address for clients, with the password: not for logs."""
        return f"postgresql://{USER}:{self._password}@{LOOPBACK}:{self._port}/{DATABASE}?sslmode=disable"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def pid(self) -> int | None:
        """The server's process while it runs."""
        return self._process.pid if self._process and not self._process.ended else None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Run the server for the length of the block; yields its address.

        Raises PortInUseError, FolderInUseError, FolderUnusableError, BinaryMissingError or ServerStartError.
        """
        settings = self._settings
        self._folder = await asyncio.to_thread(prepare_folder, settings.folder)
        self._port = claim_port(settings.port, "PostgreSQL")
        try:
            async with locked(
                self._folder / "lock",
                wait_s=settings.lock_wait_s,
                purpose="which runs PostgreSQL on it",
                on_wait=settings.on_line,
            ) as self._lock:
                try:
                    self._password = await make_cluster(self._folder, USER, durable=settings.folder is not None)
                    await self.start()
                    yield self.dsn
                finally:
                    await self.stop()
        finally:
            if settings.folder is None:
                await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def start(self) -> None:
        """Start the server, inside `running`, after `stop` or `kill`; returns when it answers."""
        forget_dead_server(self._folder / "data")
        claim_port(self._port, "PostgreSQL")
        self._process = await launch(self._plan())
        try:
            await self._answer(self._process)
        except BaseException:
            await self._process.stop()
            raise

    async def stop(self) -> None:
        """End the server in order: open connections are closed, everything acknowledged is kept."""
        if self._process is not None:
            await self._process.stop()
            self._process = None

    async def kill(self) -> None:
        """End the server as a crash would."""
        if self._process is not None:
            await self._process.kill()
            self._process = None

    def _plan(self) -> ServerPlan:
        who = postgres_binaries.account()
        programs = postgres_binaries.binaries()
        options = TUNING | (EPHEMERAL if self._settings.folder is None else {}) | {"port": str(self._port)}
        return ServerPlan(
            name="PostgreSQL",
            command=[
                str(programs / "postgres"),
                "-D",
                str(self._folder / "data"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            log=self._folder / "postgres.log",
            cwd=self._folder,
            env=clean_environment(),
            stop_signals=(signal.SIGINT, signal.SIGQUIT),  # fast shutdown, then immediate
            stop_grace_s=STOP_GRACE_S,
            uid=who.uid,
            gid=who.gid,
            enter_any_folder=needs_capability(self._folder, who),
            pass_fds=(self._lock,),
            remove=(self._folder,) if self._settings.folder is None else (),
        )

    async def _answer(self, process: ServerProcess) -> None:
        """Wait until the server takes connections to our database, making it at the first start."""
        give_up = time.monotonic() + START_WAIT_S
        while True:
            try:
                await ensure_database(self.dsn)
                return
            except (OSError, asyncpg.PostgresError, TimeoutError) as error:
                if process.ended or time.monotonic() > give_up or not starting(error):
                    raise ServerStartError(f"PostgreSQL did not start: {process.log_tail()}") from error
            await asyncio.sleep(POLL_S)


async def ensure_database(dsn: str) -> None:
    """Connect to our database once; make it when the cluster is new."""
    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except asyncpg.InvalidCatalogNameError:
        maintenance = await asyncpg.connect(dsn, database="postgres", timeout=5)
        try:
            await maintenance.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await maintenance.close()
        return
    await connection.close()


def starting(error: Exception) -> bool:
    """Whether this error is what a server answers while it starts."""
    return isinstance(error, (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError))
