"""What `holdfast dev` runs: the development stack, a worker that is started again when it dies, and nothing left at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.runtime import Runtime, TelemetryConfig
from temporalio.service import RPCError

from client import endpoints
from client.command_line.development import WORKER_COMMAND, worker_environment
from client.command_line.exits import ExitCode
from client.command_line.terminal import put, put_json, say
from client.command_line.worker_process import WorkerProcess, start_worker
from client.settings import Settings
from client.temporal import connect_temporal
from devstack.outside_servers import database_place
from devstack.ports import is_free
from devstack.stack import RunningStack, StackSettings, open_stack
from telemetry.logs import configure_logs, core_logging

TEMPORAL_PORT: Final = 7233
UI_PORT: Final = 8233
"""The ports of `temporal server start-dev`, so that its tools and habits work here too."""
NO_KEY: Final = "no-key-is-needed-here"
"""What the simulated provider takes for a key. It is redacted wherever it is met, so it is no word that texts hold."""
READY_WAIT_S: Final = 60.0
READY_CHECK_S: Final = 0.1
RESTART_PAUSE_S: Final = 1.0
RESTART_PAUSE_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DevOptions:
    """What `holdfast dev` was asked for."""

    agents: tuple[Path, ...]
    """Empty: no worker."""
    data: Path | None
    port: int | None
    ui_port: int | None
    simulate: bool
    policy: str | None
    as_json: bool


def run_stack(options: DevOptions) -> int:
    """Run until SIGINT, SIGTERM or SIGHUP; these are the ordinary ways to end it."""
    ended_by: list[signal.Signals] = []
    _send_core_lines_to_stderr()

    async def main() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - we are in it

        def end(number: signal.Signals) -> None:
            ended_by.append(number)
            task.cancel()

        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, end, number)
        return await _run(options)

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        return ExitCode.OK
    except asyncio.CancelledError:
        if ended_by:
            return ExitCode.OK
        raise


def _send_core_lines_to_stderr() -> None:
    """Temporal's core writes to standard output by itself, where `--json` promises one object."""
    configure_logs(level="WARNING")
    Runtime.set_default(Runtime(telemetry=TelemetryConfig(logging=core_logging())), error_if_already_set=False)


async def _run(options: DevOptions) -> int:
    data = options.data or endpoints.data_folder(os.environ)
    async with contextlib.AsyncExitStack() as exits:
        variables = await exits.enter_async_context(_simulation(options))
        stack = await exits.enter_async_context(open_stack(_stack_settings(options, data)))
        settings = Settings(
            temporal_address=stack.temporal_address,
            namespace=stack.namespace,
            database_url=stack.database_url,
            ui_url=stack.ui_url,
            temporal_variables={name: value for name, value in os.environ.items() if name.startswith("TEMPORAL_")},
            origin="this `holdfast dev`",
        )
        environment = {**os.environ, **worker_environment(settings), **variables}
        worker = await exits.enter_async_context(_worker(options, environment))
        if worker is not None and not await _ready(worker, settings):
            say(f"holdfast: the worker ended with status {await worker.wait()} before it was ready; its lines above say why.")
            return ExitCode.FAILED
        exits.callback(endpoints.withdraw, data)
        path = endpoints.publish(data, _endpoints(stack))
        _tell(options, stack, path, simulated=bool(variables))
        await _keep(worker, options, environment)
    return ExitCode.OK


def _stack_settings(options: DevOptions, data: Path) -> StackSettings:
    chosen = StackSettings(data=data, on_line=say)
    port = options.port if options.port is not None else TEMPORAL_PORT if is_free(TEMPORAL_PORT) else 0
    ui_port = options.ui_port if options.ui_port is not None else UI_PORT if is_free(UI_PORT) else 0
    return replace(chosen, temporal_port=port, ui_port=ui_port)


@contextlib.asynccontextmanager
async def _simulation(options: DevOptions) -> AsyncIterator[dict[str, str]]:
    """The variables that send a worker's model calls to a simulated provider; none when that is not wanted."""
    if not options.simulate:
        yield {}
        return
    from devstack.simulated_provider.answering import plain_policy
    from devstack.simulated_provider.loading import load_policy
    from devstack.simulated_provider.server import simulated_provider

    policy = load_policy(options.policy) if options.policy else plain_policy
    async with simulated_provider(policy) as provider:
        yield {
            "OPENAI_BASE_URL": provider.openai_url,
            "OPENAI_API_KEY": NO_KEY,
            "ANTHROPIC_BASE_URL": provider.anthropic_url,
            "ANTHROPIC_API_KEY": NO_KEY,
        }


@contextlib.asynccontextmanager
async def _worker(options: DevOptions, environment: dict[str, str]) -> AsyncIterator[WorkerProcess | None]:
    if not options.agents:
        yield None
        return
    worker = await start_worker(_worker_command(options), environment)
    try:
        yield worker
    finally:
        await worker.stop()


def _worker_command(options: DevOptions) -> list[str]:
    return [*WORKER_COMMAND, *(word for folder in options.agents for word in ("--agents", str(folder)))]


async def _keep(worker: WorkerProcess | None, options: DevOptions, environment: dict[str, str]) -> None:
    """Wait for ever; a worker that dies is started again, later each time."""
    pause_s = RESTART_PAUSE_S
    while worker is not None:
        status = await worker.wait()
        say(f"The worker ended with status {status}; it is started again in {pause_s:g} s.")
        await asyncio.sleep(pause_s)
        pause_s = min(RESTART_PAUSE_MAX_S, pause_s * 2)
        await worker.restart(_worker_command(options), environment)
    await asyncio.Event().wait()


async def _ready(worker: WorkerProcess, settings: Settings) -> bool:
    """Wait until the worker asks Temporal for work, which it does when its agents are registered; False when it ends before."""
    client = await connect_temporal(settings)
    request = DescribeTaskQueueRequest(
        namespace=settings.namespace,
        task_queue=TaskQueue(name=settings.task_queue),
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    )
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(READY_WAIT_S):
            while not worker.ended:
                with contextlib.suppress(RPCError):
                    if (await client.workflow_service.describe_task_queue(request)).pollers:
                        return True
                await asyncio.sleep(READY_CHECK_S)
            return False
    say(f"The worker has not asked for work for {READY_WAIT_S:g} s; going on without waiting for it.")
    return True


def _endpoints(stack: RunningStack) -> endpoints.Endpoints:
    return endpoints.Endpoints(
        pid=os.getpid(),
        temporal_address=stack.temporal_address,
        namespace=stack.namespace,
        database_url=stack.database_url,
        ui_url=stack.ui_url,
    )


def _tell(options: DevOptions, stack: RunningStack, path: Path, *, simulated: bool) -> None:
    if options.as_json:
        put_json(_endpoints(stack).model_dump(mode="json") | {"agents": [str(folder) for folder in options.agents]})
        return
    put(f"Temporal Web UI  {stack.ui_url or 'not ours to show'}")
    put(f"Temporal         {stack.temporal_address}, namespace {stack.namespace}: {stack.temporal_origin}")
    put(f"PostgreSQL       {database_place(stack.database_url)}; its whole address is in {path}")
    put(f"worker           {', '.join(map(str, options.agents)) or 'none: start one with `holdfast worker --agents FOLDER`'}")
    if simulated:
        put("models           simulated: no model is asked and nothing is paid")
    put("Ready. In another terminal: `holdfast agents`, `holdfast run AGENT TEXT`. Ctrl-C ends everything; data is kept.")
