"""An embedded PostgreSQL: packaged programs, our own launcher (why: docs/adr/0002)."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from devstack import postgres_binaries
from devstack.errors import ServerStartError
from devstack.own_server import OwnServer
from devstack.ports import LOOPBACK, claim_port
from devstack.postgres_cluster import clean_environment, forget_dead_server, make_cluster, needs_capability
from devstack.process import ServerPlan

USER: Final = "holdfast"
DATABASE: Final = "holdfast"
STOP_GRACE_S: Final = 15.0
CONNECT_WAIT_S: Final = 5.0

TUNING: Final = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",  # TCP only: no socket path that could be too long or left behind
    "max_connections": "200",
    "shared_buffers": "128MB",
    "wal_level": "minimal",  # nothing replicates from here
    "max_wal_senders": "0",
    "max_parallel_workers_per_gather": "0",  # short queries; and containers give little shared memory
    "max_parallel_maintenance_workers": "0",
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
    """0 takes a free port, kept until `running` ends."""
    lock_wait_s: float = 10.0
    on_line: Callable[[str], None] | None = None
    """Told, in one line, what takes long."""


class EmbeddedPostgres(OwnServer):
    """One PostgreSQL server of ours, with one database in it."""

    name = "PostgreSQL"

    def __init__(self, settings: PostgresSettings) -> None:
        super().__init__(settings.folder, lock_wait_s=settings.lock_wait_s, on_line=settings.on_line)
        self._wanted_port = settings.port
        self.port = 0
        self._password = ""

    @property
    def dsn(self) -> str:
        """The address for clients, with the password: not for logs."""
        return f"postgresql://{USER}:{self._password}@{LOOPBACK}:{self.port}/{DATABASE}?sslmode=disable"

    def _claim_ports(self, *, first: bool) -> None:
        self.port = claim_port(self._wanted_port if first else self.port, self.name)

    async def _prepare(self) -> None:
        self._password = await make_cluster(self.folder, USER, durable=self.kept, lock=self._lock)

    def _plan(self) -> ServerPlan:
        data = self.folder / "data"
        forget_dead_server(data)
        who = postgres_binaries.account(data)
        options = TUNING | ({} if self.kept else EPHEMERAL) | {"port": str(self.port)}
        return ServerPlan(
            name=self.name,
            command=[
                str(postgres_binaries.binaries() / "postgres"),
                f"-D{data}",
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            log=self.folder / "postgres.log",
            cwd=self.folder,
            env=clean_environment(),
            stop_signals=(signal.SIGINT, signal.SIGQUIT),  # fast shutdown, then immediate
            stop_grace_s=STOP_GRACE_S,
            uid=who.uid,
            gid=who.gid,
            enter_any_folder=needs_capability(self.folder, who),
            pass_fds=(self._lock,),
            remove=() if self.kept else (self.folder,),
        )

    async def _answers(self) -> bool:
        """Connect to our database, making it at the first start."""
        try:
            await ensure_database(self.dsn)
        except (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.ConnectionDoesNotExistError):
            return False
        except asyncpg.PostgresError as error:
            raise ServerStartError(f"{self.name} refused our connection: {error}") from error
        return True


async def ensure_database(dsn: str) -> None:
    """Connect to our database once; make it when the cluster is new."""
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_WAIT_S)
    except asyncpg.InvalidCatalogNameError:
        connection = await asyncpg.connect(dsn, database="postgres", timeout=CONNECT_WAIT_S)
        try:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        except asyncpg.DuplicateDatabaseError:
            pass
        finally:
            await connection.close()
        return
    await connection.close()
