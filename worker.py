"""The worker process: the composition root. It builds every part from its settings and serves until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from temporalio.client import Client
from temporalio.worker import Interceptor, UnsandboxedWorkflowRunner, Worker, WorkflowRunner

from activities.agents import folders as agent_folders
from activities.agents.folders import Catalog
from activities.agents.watch import snapshot, watch
from activities.dead_letters.reporting import open_reporter
from activities.edge import EdgeInterceptor
from activities.identity import WORKER
from activities.inference.call_in_batch import BatchActivities
from activities.inference.call_model import ModelActivities
from activities.inference.configuration import LiveSettings
from activities.inference.gateway import Gateway
from activities.inference.opening import ConfiguredInference
from activities.inference.providers.protocol import Provider
from activities.inference.routing import Router
from activities.inference.sharing import open_shared
from activities.memory.remember import MemoryActivities
from activities.people.opening import open_people
from activities.tools.http import HttpRunner
from activities.tools.registry import Dependencies, Toolbox
from activities.tools.run_tool import ToolActivities
from activities.tools.undo import UndoActivities
from client.settings import Settings
from client.temporal import connect_temporal
from state.definitions import Definitions
from state.migrate import migrate
from state.notices import Notices
from state.pool import Database
from telemetry.setup import Telemetry, open_telemetry
from workflows.agent_run import AgentRun
from workflows.contracts import policies
from workflows.contracts.errors import HoldfastError, UnavailableError, UsageError

log = structlog.get_logger("holdfast.worker")

WORKFLOWS = (AgentRun,)
CONCURRENT_ACTIVITIES = 200
CONCURRENT_WORKFLOW_TASKS = 100
CACHED_RUNS = 2_000
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a worker is composed of beside its agents."""

    database: Database
    inference: tuple[Router, Mapping[str, Provider]] | None = None
    """Instead of what models.yaml says."""
    environ: Mapping[str, str] | None = None
    interceptors: Sequence[Interceptor] = ()
    """Around every activity and workflow, inside the edge; the kill tests' fault switches are some."""


@contextlib.asynccontextmanager
async def serving(client: Client, task_queue: str, parts: Parts, *, folders: Sequence[Path]) -> AsyncIterator[Worker]:
    """Serve the agents of the folders on a task queue for the length of the block; changed folders are taken over while it runs.

    Raises:
        DefinitionError: a folder is wrong; names file, line, field and remedy.
        UnavailableError: the database does not answer.
    """
    seen = snapshot(folders)
    catalog = agent_folders.load(folders)
    definitions = Definitions(parts.database)
    async with contextlib.AsyncExitStack() as exits:
        toolbox = Toolbox(catalog.tools, await exits.enter_async_context(Dependencies(catalog.providers)), catalog.hooks)
        live = LiveSettings(parts.database, catalog.model_files, parts.environ or os.environ)
        gateway = await exits.enter_async_context(_open_gateway(parts, live))
        http = await exits.enter_async_context(contextlib.aclosing(HttpRunner(parts.environ or os.environ)))
        tools = ToolActivities(parts.database, definitions, toolbox, http)
        undo = UndoActivities(parts.database, toolbox)
        models = ModelActivities(gateway, definitions)
        batches = BatchActivities(gateway, definitions)
        memory = MemoryActivities(parts.database)
        people = await exits.enter_async_context(
            open_people(parts.database, definitions, toolbox, catalog.people, lambda: live.settings.alerts)
        )
        await definitions.register(catalog.definitions.values(), by=WORKER)

        async def changed(new: Catalog) -> None:
            toolbox.take(new.tools, new.providers, new.hooks)
            people.settings = new.people
            if parts.inference is None:
                await live.take_files(new.model_files)
            await definitions.register(new.definitions.values(), by=WORKER)

        watching = asyncio.create_task(watch(folders, seen, changed))
        exits.callback(watching.cancel)
        activities: list[Callable[..., Any]] = [
            models.call_model,
            models.compact_history,
            batches.submit_batch,
            batches.collect_batch,
            batches.leave_batch,
            tools.run_tool,
            tools.withhold_result,
            undo.find_undoable,
            undo.undo_effect,
            memory.recall,
            memory.remember,
            *people.activities,
        ]
        async with _worker(client, task_queue, activities, [EdgeInterceptor(), *parts.interceptors]) as worker:
            log.info("worker.serving", agents=sorted(catalog.definitions), tools=sorted(catalog.tools), task_queue=task_queue)
            yield worker


@contextlib.asynccontextmanager
async def _open_gateway(parts: Parts, live: LiveSettings) -> AsyncIterator[Gateway]:
    """The door to the models, as the settings say or as it is given, with what is shared of it."""
    if parts.inference is not None:
        yield Gateway(parts.database, *parts.inference)
        return
    async with contextlib.AsyncExitStack() as exits:
        inference = await exits.enter_async_context(contextlib.aclosing(ConfiguredInference(parts.environ or os.environ)))
        notices = await exits.enter_async_context(Notices(parts.database).open())
        await exits.enter_async_context(live.open(notices))
        shared = await exits.enter_async_context(open_shared(parts.database, notices, live))
        gateway = Gateway(parts.database, *inference.take(live.settings), shared)
        await exits.enter_async_context(inference.following(parts.database, shared.breakers.renewed if shared.breakers else None))
        live.on_change(lambda settings: gateway.configure(*inference.take(settings)))
        await exits.enter_async_context(open_reporter(parts.database, lambda: live.settings.alerts))
        yield gateway


def _worker(client: Client, task_queue: str, activities: Sequence[Callable[..., Any]], interceptors: Sequence[Interceptor]) -> Worker:
    """Temporal's worker, as ours are set."""
    return Worker(
        client,
        task_queue=task_queue,
        workflows=WORKFLOWS,
        activities=activities,
        interceptors=interceptors,
        workflow_runner=workflow_runner(),
        max_cached_workflows=CACHED_RUNS,
        max_concurrent_activities=CONCURRENT_ACTIVITIES,
        max_concurrent_workflow_tasks=CONCURRENT_WORKFLOW_TASKS,
        sticky_queue_schedule_to_start_timeout=timedelta(seconds=policies.STICKY_SCHEDULE_TO_START_S),
        max_heartbeat_throttle_interval=timedelta(seconds=policies.HEARTBEAT_EVERY_S),
        graceful_shutdown_timeout=timedelta(seconds=policies.GRACEFUL_SHUTDOWN_S),
    )


def workflow_runner() -> WorkflowRunner:
    """What workflows run in: no sandbox, since all workflows are ours; the replay tests hold them to one (docs/adr/0010)."""
    return UnsandboxedWorkflowRunner()


async def serve(settings: Settings, telemetry: Telemetry, folders: Sequence[Path]) -> None:
    """Serve until SIGTERM or SIGINT; what is in flight gets a grace period."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await migrate(settings.database_url)
    async with Database.open(settings.database_url, max_size=20) as database:
        client = await connect_temporal(settings, interceptors=telemetry.interceptors, runtime=telemetry.runtime)
        async with serving(client, settings.task_queue, Parts(database=database), folders=folders):
            await stop.wait()
            log.info("worker.stopping", grace_s=policies.GRACEFUL_SHUTDOWN_S)
    log.info("worker.stopped")


def main(arguments: Sequence[str]) -> int:
    """Run a worker; returns the exit code: 0 told to stop, 2 something is set or defined wrongly, 3 a server cannot be reached."""
    parser = argparse.ArgumentParser(prog="python -m worker", description="Serve agents.")
    parser.add_argument(
        "--agents", action="append", type=Path, required=True, metavar="PATH", help="a folder of agents and tools; many allowed"
    )
    folders: list[Path] = parser.parse_args(arguments).agents
    telemetry: Telemetry | None = None
    try:
        settings = Settings.from_environment()
        telemetry = open_telemetry(service_name="holdfast-worker", log_format=settings.log_format)
        asyncio.run(serve(settings, telemetry, folders))
    except UsageError as error:
        sys.stderr.write(f"holdfast worker: {error}\n")
        return EXIT_USAGE
    except UnavailableError as error:
        sys.stderr.write(f"holdfast worker: {error}\n")
        return EXIT_UNAVAILABLE
    except HoldfastError as error:
        sys.stderr.write(f"holdfast worker: {error}\n")
        return 1
    finally:
        if telemetry is not None:
            telemetry.close()
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's own teardown can abort in a process that used the Temporal SDK; everything is closed by now.
    os._exit(status)
