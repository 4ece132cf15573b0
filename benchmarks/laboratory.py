"""What a comparison runs in: one development stack, one simulated provider, a bare worker and a Holdfast worker, each its own process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
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
PROVIDER_KEY = "bench-key-of-no-worth"


@dataclass(frozen=True)
class Cpu:
    """CPU seconds by part."""

    worker: float
    server: float
    database: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.worker - other.worker, self.server - other.server, self.database - other.database)

    @property
    def total(self) -> float:
        """All parts."""
        return self.worker + self.server + self.database


@dataclass(frozen=True)
class Laboratory:
    """Both sides, ready."""

    stack: RunningStack
    settings: Settings
    client: Client
    holdfast: Orchestrator
    bare_worker: psutil.Process
    holdfast_worker: psutil.Process

    def cpu(self, worker: psutil.Process) -> Cpu:
        """CPU seconds used so far by one side's worker and by the parts both share."""
        server, postgres = self.stack.temporal, self.stack.postgres
        return Cpu(
            worker=_cpu_s(worker),
            server=_cpu_s(psutil.Process(server.pid)) if server and server.pid else 0.0,
            database=_cpu_s(psutil.Process(postgres.pid)) if postgres and postgres.pid else 0.0,
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


def _cpu_s(process: psutil.Process) -> float:
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
            await _warm_up(laboratory)
            yield laboratory
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                sys.stderr.write(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}\n")
            raise


async def _warm_up(laboratory: Laboratory) -> None:
    """Let caches and pools fill."""
    async with asyncio.timeout(60):
        for number in range(5):
            await laboratory.bare(f"warm-bare-{number}", "gpt-5-mini", 2)
            await laboratory.ours(f"warm-ours-{number}", "bench", 2)
