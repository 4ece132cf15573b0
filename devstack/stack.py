"""The development stack in one block: PostgreSQL and Temporal, ready for runs. `holdfast dev`, demo and tests start it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from devstack import search_attributes
from devstack.errors import ServerStartError
from devstack.outside_servers import connect_temporal, named_database_failure
from devstack.postgres import EmbeddedPostgres, PostgresSettings
from devstack.server_settings import NAMESPACE, RETENTION_DAYS, SEARCH_ATTRIBUTES
from devstack.temporal import TemporalServer, TemporalSettings
from devstack.temporal_program import find_program
from state.migrate import migrate
from workflows.contracts.errors import SettingsError, UnavailableError


def say_nothing(_line: str) -> None:
    """For callers that want no progress."""


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """What to start, where its data is kept and where it listens."""

    data: Path | None = None
    """Kept between starts; None for a stack that leaves nothing."""
    temporal_port: int = 0
    ui_port: int | None = 0
    """None leaves the Web UI away."""
    postgres_port: int = 0
    namespace: str | None = None
    """None takes TEMPORAL_NAMESPACE, else `default`."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    """TEMPORAL_ADDRESS (with Temporal's other variables) and DATABASE_URL name servers to use instead of our own."""
    on_line: Callable[[str], None] = say_nothing
    """Told, line by line, what is done and what takes long."""
    lock_wait_s: float = 10.0


@dataclass(frozen=True, kw_only=True)
class RunningStack:
    """A stack that answers: where its parts are, and the means to take them down and up again."""

    temporal_address: str
    namespace: str
    ui_url: str | None
    database_url: str = field(repr=False)
    """With the password: not for logs."""
    temporal_origin: str
    migrations_applied: tuple[str, ...] = ()
    temporal: TemporalServer | None = None
    """None for a server that is not ours."""
    postgres: EmbeddedPostgres | None = None

    async def kill_temporal(self) -> None:
        """End the Temporal server as a crash would."""
        await self._own_temporal().kill()

    async def start_temporal(self) -> None:
        """Start it again on the same port and state; returns when it answers."""
        await self._own_temporal().start()

    async def kill_postgres(self) -> None:
        """End PostgreSQL as a crash would."""
        await self._own_postgres().kill()

    async def stop_postgres(self) -> None:
        """End PostgreSQL in order."""
        await self._own_postgres().stop()

    async def start_postgres(self) -> None:
        """Start it again on the same port and data; returns when it answers."""
        await self._own_postgres().start()

    def _own_temporal(self) -> TemporalServer:
        if self.temporal is None:
            raise ServerStartError(f"the Temporal server at {self.temporal_address} is not ours to stop or start")
        return self.temporal

    def _own_postgres(self) -> EmbeddedPostgres:
        if self.postgres is None:
            raise ServerStartError("the database of DATABASE_URL is not ours to stop or start")
        return self.postgres


@contextlib.asynccontextmanager
async def open_stack(settings: StackSettings | None = None) -> AsyncIterator[RunningStack]:
    """Run the stack for the length of the block: servers up, migrations applied, search attributes known.

    Raises DevStackError (devstack.errors draws the tree), or UnavailableError for a server that is not ours.
    """
    chosen = settings or StackSettings()
    namespace = chosen.namespace or chosen.environment.get("TEMPORAL_NAMESPACE") or NAMESPACE
    async with contextlib.AsyncExitStack() as exits:
        database_url, postgres = await start_postgres(chosen, exits)
        applied = await apply_migrations(database_url)
        address, origin, temporal = await start_temporal(chosen, namespace, exits)
        await prepare_namespace(await connect_temporal(address, namespace, chosen.environment), ours=temporal is not None)
        yield RunningStack(
            temporal_address=address,
            namespace=namespace,
            ui_url=temporal.ui_url if temporal else chosen.environment.get("HOLDFAST_UI_URL"),
            database_url=database_url,
            temporal_origin=origin,
            migrations_applied=tuple(applied),
            temporal=temporal,
            postgres=postgres,
        )


async def start_postgres(settings: StackSettings, exits: contextlib.AsyncExitStack) -> tuple[str, EmbeddedPostgres | None]:
    """The database's address, and the server if it is ours."""
    if given := settings.environment.get("DATABASE_URL"):
        return given, None
    server = EmbeddedPostgres(
        PostgresSettings(
            folder=settings.data / "postgres" if settings.data else None,
            port=settings.postgres_port,
            lock_wait_s=settings.lock_wait_s,
            on_line=settings.on_line,
        )
    )
    await exits.enter_async_context(server.running())
    return server.dsn, server


async def apply_migrations(database_url: str) -> list[str]:
    """Bring the database up to date; the names of what was applied. Raises UnavailableError, without the password."""
    try:
        return await migrate(database_url)
    except (UnavailableError, SettingsError) as error:
        raise named_database_failure(database_url, error.__cause__ or error) from error
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise named_database_failure(database_url, error) from error


async def start_temporal(
    settings: StackSettings, namespace: str, exits: contextlib.AsyncExitStack
) -> tuple[str, str, TemporalServer | None]:
    """Temporal's address, where the server came from, and the server if it is ours."""
    if given := settings.environment.get("TEMPORAL_ADDRESS"):
        return given, "TEMPORAL_ADDRESS", None
    program = await find_program(settings.environment, settings.on_line)
    server = TemporalServer(
        TemporalSettings(
            program=program.path,
            folder=settings.data / "temporal" if settings.data else None,
            port=settings.temporal_port,
            ui_port=settings.ui_port,
            namespace=namespace,
            lock_wait_s=settings.lock_wait_s,
            on_line=settings.on_line,
        )
    )
    await exits.enter_async_context(server.running())
    return server.address, f"{program.version} ({program.origin})", server


async def prepare_namespace(client: Client, *, ours: bool) -> None:
    """Make the search attributes and, on our own server, keep finished runs readable for longer than a day."""
    try:
        await search_attributes.ensure(client, SEARCH_ATTRIBUTES)
        if ours:
            await keep_finished_runs(client)
    except RPCError as error:
        raise ServerStartError(f"the namespace {client.namespace} could not be prepared for runs: {error.message}") from error


async def keep_finished_runs(client: Client) -> None:
    """Set how long finished runs stay readable."""
    service = client.workflow_service
    found = await service.describe_namespace(DescribeNamespaceRequest(namespace=client.namespace))
    wanted_s = RETENTION_DAYS * 24 * 3600
    if found.config.workflow_execution_retention_ttl.seconds != wanted_s:
        request = UpdateNamespaceRequest(namespace=client.namespace)
        request.config.workflow_execution_retention_ttl.FromSeconds(wanted_s)
        await service.update_namespace(request)
