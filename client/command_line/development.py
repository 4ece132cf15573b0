"""Commands that run an installation: `dev`, `worker`, `doctor`."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

from cyclopts import Parameter

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import put, put_json
from client.settings import Settings
from workflows.contracts.errors import SettingsError

Folders = Annotated[list[Path] | None, Parameter(name=["--agents", "-a"], consume_multiple=True, negative="")]

WORKER_COMMAND = (sys.executable, "-P", "-m", "worker")
"""-P: a worker.py in the user's folder must not stand in for ours."""


def dev(
    *,
    agents: Folders = None,
    data: Path | None = None,
    port: int | None = None,
    ui_port: int | None = None,
    worker: bool = True,
    simulate: Annotated[bool, Parameter(negative="")] = False,
    policy: str | None = None,
    json: AsJson = False,
) -> int:
    """Run PostgreSQL, Temporal and a worker here, until Ctrl-C; their data is kept for the next start.

    TEMPORAL_ADDRESS and DATABASE_URL, where set, name servers to use instead. Commands and programs that are started in this
    folder, or one below it, find the servers by themselves.

    Args:
        agents: Folders with agents for the worker; ./agents if it is there and nothing is said.
        data: Where data is kept: HOLDFAST_DATA or .holdfast if nothing is said.
        port: Temporal's port; 7233, or a free one where that is taken.
        ui_port: The Temporal Web UI's port; 8233, or a free one where that is taken.
        worker: Start a worker, or with --no-worker leave that to you.
        simulate: Answer every model call by a simulated provider: no key is needed and nothing is paid.
        policy: With --simulate: what it answers, as path/to/file.py:function.
        json: Print one JSON object with the addresses when everything is ready.
    """
    from client.command_line.stack import DevOptions, run_stack

    folders = tuple(agents or ([Path("agents")] if Path("agents").is_dir() else []))
    if policy is not None and not simulate:
        raise SettingsError("--policy says what the simulated provider answers: give --simulate with it.")
    _check_folders(folders)
    options = DevOptions(
        agents=folders if worker else (), data=data, port=port, ui_port=ui_port, simulate=simulate, policy=policy, as_json=json
    )
    return run_stack(options)


def worker(
    *extra: Annotated[str, Parameter(allow_leading_hyphen=True)],
    agents: Folders = None,
) -> NoReturn:
    """Run a worker for the agents in some folders, until Ctrl-C or SIGTERM; what is in the air gets time to end.

    Args:
        extra: More options for the worker; `holdfast worker -- --help` lists them.
        agents: Folders with agent definitions and tools; ./agents if nothing is said.
    """
    folders = agents or [Path("agents")]
    arguments = [*WORKER_COMMAND, *(word for folder in folders for word in ("--agents", str(folder))), *extra]
    environment = dict(os.environ)
    if not {"--help", "-h"} & set(extra):
        _check_folders(folders)
        environment |= worker_environment(Settings.from_environment())
    sys.stdout.flush()
    os.execve(arguments[0], arguments, environment)  # noqa: S606 - our own interpreter and module


def doctor(*, agents: Folders = None, run_commands: Annotated[bool, Parameter(negative="")] = False, json: AsJson = False) -> int:
    """Check every part; say what is wrong and what to do. Ends with 1 when something is broken.

    Args:
        agents: Folders whose models.yaml declares keys of providers; ./agents if it is there and nothing is said.
        run_commands: Run the programs that print keys, too, each for at most 10 seconds. Keys are never shown.
    """
    from client import endpoints
    from devstack.doctor import DoctorSettings, examine

    folders = tuple(agents or ([Path("agents")] if Path("agents").is_dir() else []))
    _check_folders(folders)
    environment = dict(os.environ)
    found = endpoints.find(environment)
    if found and found[1].running() and not environment.keys() & {"TEMPORAL_ADDRESS", "DATABASE_URL"}:
        environment |= {"TEMPORAL_ADDRESS": found[1].temporal_address, "DATABASE_URL": found[1].database_url}
    findings = asyncio.run(examine(DoctorSettings(environment=environment, agents=folders, run_commands=run_commands)))
    broken = any(finding.level == "fail" for finding in findings)
    if json:
        put_json([asdict(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            put(f"{finding.level:<4}  {finding.name:<{width}}  {finding.detail}")
            if finding.remedy:
                put(f"{'':<{width + 8}}→ {finding.remedy}")
    return ExitCode.FAILED if broken else ExitCode.OK


def worker_environment(settings: Settings) -> dict[str, str]:
    """The variables by which a worker finds what we have found."""
    return {
        "TEMPORAL_ADDRESS": settings.temporal_address,
        "TEMPORAL_NAMESPACE": settings.namespace,
        "DATABASE_URL": settings.database_url,
        "HOLDFAST_TASK_QUEUE": settings.task_queue,
    } | ({"HOLDFAST_UI_URL": settings.ui_url} if settings.ui_url else {})


def _check_folders(folders: tuple[Path, ...] | list[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"--agents: there is no folder {folder}: `holdfast new {folder.parent}` makes one to start from.")
