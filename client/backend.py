"""What every client call works with: the settings, the connection to Temporal, and the database's pool."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
from temporalio.client import Client, Interceptor, WorkflowHandle

from client.settings import Settings
from client.temporal import connect_temporal
from state.definitions import Definitions
from state.pool import Database, DatabaseUnavailableError
from workflows.agent_run import AgentRun
from workflows.contracts.errors import SettingsError
from workflows.contracts.runs import RunOutcome

if TYPE_CHECKING:
    from telemetry.setup import Telemetry

POOL_SIZE = 10


@dataclass(frozen=True, slots=True)
class Backend:
    """An open client's means."""

    settings: Settings
    temporal: Client
    database: Database
    definitions: Definitions

    def handle(self, run_id: str) -> WorkflowHandle[Any, RunOutcome]:
        """Temporal's handle of a run, whichever of its executions is the current one."""
        return self.temporal.get_workflow_handle_for(AgentRun.run, run_id)


@contextlib.asynccontextmanager
async def open_backend(settings: Settings, telemetry: Telemetry | None = None) -> AsyncIterator[Backend]:
    """Connect to both for the length of the block; spans and log lines go where `telemetry` says, or the process's own tracing.

    Raises:
        UnavailableError: one of them does not answer; names which, and the remedy.
        SettingsError: one of them refuses us.
    """
    async with open_database(settings) as database:
        interceptors = telemetry.interceptors if telemetry else _tracing_of_the_process()
        runtime = telemetry.runtime if telemetry else None
        temporal = await connect_temporal(settings, interceptors=interceptors, runtime=runtime)
        yield Backend(settings=settings, temporal=temporal, database=database, definitions=Definitions(database))


def _tracing_of_the_process() -> Sequence[Interceptor]:
    """Where the program that uses us traces by OpenTelemetry already, its runs join the traces that start them."""
    tracing = sys.modules.get("opentelemetry.trace")
    if tracing is None or isinstance(tracing.get_tracer_provider(), tracing.ProxyTracerProvider):
        return ()
    from telemetry import names
    from telemetry.trace_interceptor import TraceInterceptor

    return (TraceInterceptor(tracing.get_tracer(names.SCOPE)),)


@contextlib.asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """The pool, on a database that has our tables."""
    async with contextlib.AsyncExitStack() as exits:
        try:
            database = await exits.enter_async_context(Database.open(settings.database_url, min_size=1, max_size=POOL_SIZE))
            ready = await database.fetchval("select to_regclass('runs') is not null")
        except DatabaseUnavailableError as error:
            raise DatabaseUnavailableError(
                f"{error} Its address is from {settings.origin}: start `holdfast dev`, or set DATABASE_URL to one that runs."
            ) from error
        except (asyncpg.PostgresError, ValueError) as error:
            raise SettingsError(f"The database refuses us: {error}. Check DATABASE_URL (from {settings.origin}).") from error
        if not ready:
            raise SettingsError("The database has no Holdfast tables yet: start `holdfast dev` or a worker, they apply the migrations.")
        yield database
