"""A worker that `holdfast dev` runs: its lines go to our standard error, and it ends with us however we end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from devstack.process import SUPERVISOR, ServerPlan, supervisor_arguments
from workflows.contracts import policies

STOP_GRACE_S: Final = policies.GRACEFUL_SHUTDOWN_S + 10


class WorkerProcess:
    """The running worker; `start_worker` makes one."""

    def __init__(self, supervisor: asyncio.subprocess.Process) -> None:
        self._supervisor = supervisor

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._supervisor.returncode is not None

    async def wait(self) -> int:
        """Wait for its end; its exit status, negative for a signal."""
        assert self._supervisor.stdout is not None  # noqa: S101 - given at the start
        report: dict[str, Any] = {}
        async for line in self._supervisor.stdout:
            report |= json.loads(line)
        await self._supervisor.wait()
        return int(report.get("exit", self._supervisor.returncode or 0))

    async def stop(self) -> int:
        """Ask it to end, give what is in the air its time, and wait."""
        if self._supervisor.stdin is not None and not self.ended:
            with contextlib.suppress(ConnectionError):
                self._supervisor.stdin.write(b"stop\n")
        return await self.wait()

    async def restart(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it again after it has ended."""
        self._supervisor = await _supervised(command, environment)


async def start_worker(command: Sequence[str], environment: Mapping[str, str]) -> WorkerProcess:
    """Start a worker under the supervisor that ends it when we are gone, by Ctrl-C, SIGTERM or SIGKILL alike."""
    return WorkerProcess(await _supervised(command, environment))


async def _supervised(command: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    plan = ServerPlan(name="worker", command=command, log=Path(os.devnull), cwd=Path.cwd(), stop_grace_s=STOP_GRACE_S)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        str(SUPERVISOR),
        json.dumps(supervisor_arguments(plan)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,  # Ctrl-C in the terminal is ours to hear, not the worker's
    )
