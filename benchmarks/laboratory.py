"""What a comparison runs in: one development stack, one simulated provider, a bare worker and a Holdfast worker, each its own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from temporalio.client import Client

from benchmarks import bare
from client.orchestrator import Orchestrator
from client.settings import Settings
from client.temporal import connect_temporal
from devstack.stack import RunningStack, StackSettings, open_stack
from testkit.processes import process, provider_process, worker_process

HERE = Path(__file__).parent
IDLE_S = 4.0
WARM_UP = 10
"""Runs of each side before the first that counts: caches, pools and prepared statements fill."""
PROVIDER_KEY = "bench-key-of-no-worth"


@dataclass(frozen=True)
class Cpu:
    """CPU seconds by part."""

    worker: float
    server: float
    database: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.worker - other.worker, self.server - other.server, self.database - other.database)

    def __mul__(self, factor: float) -> Cpu:
        return Cpu(self.worker * factor, self.server * factor, self.database * factor)

    @property
    def total(self) -> float:
        """All parts."""
        return self.worker + self.server + self.database


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: its worker, and how it runs the job with a model at 0 and at 50 ms."""

    name: str
    worker: psutil.Process
    idle: Cpu
    """CPU a second while nothing runs."""
    at_once: Callable[[str, int], Awaitable[str]]
    """(run id, look-ups) → the answer, the model answering at once."""
    slow: Callable[[str, int], Awaitable[str]]
    """The same, the model taking 50 ms to its first token."""


@dataclass(frozen=True)
class Laboratory:
    """Both sides, ready."""

    stack: RunningStack
    settings: Settings
    client: Client
    holdfast: Orchestrator
    bare_worker: psutil.Process
    holdfast_worker: psutil.Process

    async def sides(self) -> tuple[Side, Side]:
        """Bare Temporal and Holdfast, warmed up; their idle CPU is measured before anything has run."""
        workers = (self.bare_worker, self.holdfast_worker)
        before = [self.cpu(worker) for worker in workers]
        await asyncio.sleep(IDLE_S)
        idle = [(self.cpu(worker) - old) * (1 / IDLE_S) for worker, old in zip(workers, before, strict=True)]
        bare_side = Side(
            "bare",
            self.bare_worker,
            idle[0],
            lambda run_id, look_ups: self.bare(run_id, "gpt-5-mini", look_ups),
            lambda run_id, look_ups: self.bare(run_id, "gpt-5", look_ups),
        )
        ours = Side(
            "Holdfast",
            self.holdfast_worker,
            idle[1],
            lambda run_id, look_ups: self.ours(run_id, "bench", look_ups),
            lambda run_id, look_ups: self.ours(run_id, "bench_slow", look_ups),
        )
        async with asyncio.timeout(60):
            for number in range(WARM_UP):
                for side in (bare_side, ours):
                    await side.at_once(f"warm-{side.name}-{number}", 2)
        return bare_side, ours

    def cpu(self, worker: psutil.Process) -> Cpu:
        """CPU seconds used so far by one side's worker and by the parts both share."""
        server, postgres = self.stack.temporal, self.stack.postgres
        return Cpu(
            worker=cpu_s(worker),
            server=cpu_s(psutil.Process(server.pid)) if server and server.pid else 0.0,
            database=cpu_s(psutil.Process(postgres.pid)) if postgres and postgres.pid else 0.0,
        )

    async def bare(self, run_id: str, model: str, look_ups: int) -> str:
        """One run of the bare agent."""
        request = f"look up {look_ups} things"
        answer: str = await self.client.execute_workflow(bare.BareAgent.run, args=[model, request], id=run_id, task_queue=bare.TASK_QUEUE)
        return answer

    async def ours(self, run_id: str, agent: str, look_ups: int) -> str:
        """One run of the same agent on Holdfast."""
        run = await self.holdfast.start(agent, f"look up {look_ups} things", run_id=run_id)
        return str(await run.result())


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds of a process and all that it started, the ended ones included."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@contextlib.asynccontextmanager
async def open_laboratory() -> AsyncIterator[Laboratory]:
    """Start all of it; nothing is left afterwards."""
    environment = {name: value for name, value in os.environ.items() if name not in ("TEMPORAL_ADDRESS", "DATABASE_URL")}
    settings = StackSettings(environment=environment, on_line=lambda line: print(line, file=sys.stderr))
    async with contextlib.AsyncExitStack() as exits:
        stack = await exits.enter_async_context(open_stack(settings))
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-bench-")))
        latency = ["--latency", "gpt-5,first_token_s=0.05"]
        urls = await exits.enter_async_context(provider_process("benchmarks.simulation:answer", environment, folder, latency))
        environment |= {
            "TEMPORAL_ADDRESS": stack.temporal_address,
            "DATABASE_URL": stack.database_url,
            "BENCH_PROVIDER_URL": urls.openai,
            "BENCH_PROVIDER_KEY": PROVIDER_KEY,
        }
        bare_worker = await exits.enter_async_context(process("bare", ["-m", "benchmarks.bare"], environment, folder))
        holdfast_worker = await exits.enter_async_context(worker_process([HERE / "agents"], environment, folder))
        ours_settings = Settings.from_environment(environment)
        client = await connect_temporal(ours_settings)
        holdfast = await exits.enter_async_context(Orchestrator.connect(ours_settings))
        laboratory = Laboratory(
            stack, ours_settings, client, holdfast, psutil.Process(bare_worker.pid), psutil.Process(holdfast_worker.pid)
        )
        try:
            yield laboratory
        except BaseException:
            _tell_logs(folder)
            raise


def _tell_logs(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}\n")
