"""Worker and simulated provider as processes of their own, for tests that kill them and for benchmarks that weigh them.

Their output goes to files, since a worker whose output nobody drains stalls; none of them outlives the process that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import worker
from devstack.process import ServerPlan, ServerProcess, launch
from devstack.stack import RunningStack

READY_S = 60.0
STOP_GRACE_S = 45.0
"""Longer than the worker's own grace period."""


@dataclass(frozen=True)
class SimulatedUrls:
    """Where a simulated provider listens."""

    openai: str
    anthropic: str

    @property
    def control(self) -> str:
        """The base of its control endpoints: faults, limits, the journal."""
        return f"{self.anthropic}/control"


def addresses(stack: RunningStack) -> dict[str, str]:
    """The variables that lead a process to the stack."""
    return {
        "TEMPORAL_ADDRESS": stack.temporal_address,
        "TEMPORAL_NAMESPACE": stack.namespace,
        "DATABASE_URL": stack.database_url,
    }


@contextlib.asynccontextmanager
async def process(name: str, arguments: Sequence[str], environ: Mapping[str, str], folder: Path) -> AsyncIterator[ServerProcess]:
    """A Python process for the length of the block; it is ended in order, or found ended."""
    plan = ServerPlan(
        name=name,
        command=[sys.executable, *arguments],
        log=folder / f"{name}.log",
        cwd=Path(worker.__file__).parent,
        env=dict(environ),
        stop_grace_s=STOP_GRACE_S,
    )
    started = await launch(plan)
    try:
        yield started
    finally:
        if not started.ended:
            await started.stop()


@contextlib.asynccontextmanager
async def worker_process(
    agents: Sequence[Path], environ: Mapping[str, str], folder: Path, name: str = "worker", *, module: str = "worker"
) -> AsyncIterator[ServerProcess]:
    """A worker that serves the folders; returns when it serves. `module` is what is run: the worker, or one with fault switches."""
    arguments = ["-m", module, *(part for path in agents for part in ("--agents", str(path)))]
    async with process(name, arguments, {**environ, "HOLDFAST_LOG_FORMAT": "json"}, folder) as started:
        await logged(started, "worker.serving")
        yield started


@contextlib.asynccontextmanager
async def provider_process(
    policy: str, environ: Mapping[str, str], folder: Path, options: Sequence[str] = ()
) -> AsyncIterator[SimulatedUrls]:
    """A simulated provider that answers by a policy; returns when it listens."""
    arguments = ["-m", "devstack.simulated_provider", "--policy", policy, *options]
    async with process("provider", arguments, environ, folder) as started:
        ready = json.loads(await logged(started, '"event": "ready"'))
        yield SimulatedUrls(openai=ready["openai_url"], anthropic=ready["anthropic_url"])


async def logged(started: ServerProcess, text: str, timeout_s: float = READY_S) -> str:
    """Wait until the process has written a line that holds the text; the line.

    Raises:
        RuntimeError: it ended first; with the end of its log.
        TimeoutError: it took too long.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            lines = (await asyncio.to_thread(started.plan.log.read_text, "utf-8", "replace")).splitlines()
            for line in lines:
                if text in line:
                    return line
            if started.ended:
                raise RuntimeError(f"{started.plan.name} ended: {started.log_tail(20)}")
            await asyncio.sleep(0.05)
