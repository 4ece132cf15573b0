"""What the demo starts: the simulated provider, workers and the warehouse, each a process of its own that cannot outlive the demo."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from devstack.ports import LOOPBACK, free_port
from devstack.process import ServerPlan, ServerProcess, launch
from devstack.stack import RunningStack

from .books import billed_calls
from .options import EXAMPLE
from .report import BilledCall, ShopChange

ROOT = EXAMPLE.parents[1]
START_WAIT_S = 60.0
COMMAND_WITHIN_S = 60.0
LATENCY = "*,first_token_s=2.2,per_token_s=0.012,jitter=0.6"
"""About what a small model takes: slow enough that a kill meets calls in the air, quick enough for a demo."""
SIMULATED_TIERS = {"fast": ["openai:gpt-5-mini"], "smart": ["anthropic:claude-sonnet-4-5"]}
"""Both of the provider's dialects are spoken."""
SIMULATED_KEY = "demo-key-of-no-worth"
"""Any text is accepted; an ordinary word would be redacted from every answer as a secret."""
_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")
_ADDRESSES = ("OPENAI_BASE_URL", "ANTHROPIC_BASE_URL")


class DemoError(Exception):
    """The demo could not be played."""


class House:
    """The demo's processes. Their output goes to files in `folder`, so that none can stall on a pipe that nobody drains."""

    def __init__(
        self,
        stack: RunningStack,
        folder: Path,
        model: str | None,
        task_queue: str,
        *,
        provider_options: Sequence[str] = (),
        models: Callable[[dict[str, Any]], dict[str, Any]] = lambda base: base,
        warehouse: bool = False,
    ) -> None:
        self._provider_options = provider_options
        self._adjusted = models
        self._stack = stack
        self._folder = folder
        self._model = model
        self.task_queue = task_queue
        # With a warehouse the tools are given its address from the beginning; nothing listens there until it is started.
        self._warehouse_port = free_port() if warehouse else None
        self._warehouse: ServerProcess | None = None
        self._provider: ServerProcess | None = None
        self._urls: dict[str, str] = {}
        self.worker: ServerProcess | None = None
        self.workers = 0

    async def start_provider(self, seed: int) -> None:
        """Start the simulated provider; does nothing when a real model is asked for."""
        if self._model:
            return
        command = ["-m", "devstack.simulated_provider", "--policy", "examples.support.simulation.policy:answer"]
        command += ["--latency", LATENCY, "--seed", str(seed), *self._provider_options]
        self._provider = await launch(self._plan("simulated provider", command, dict(os.environ)))
        ready = await _until(lambda: self._ready_line(self._provider), self._provider)
        self._urls = {"openai": ready["openai_url"], "anthropic": ready["anthropic_url"]}

    @property
    def control(self) -> str:
        """Where the simulated provider tells of itself."""
        return f"{self._urls['anthropic']}/control"

    async def billed_calls(self) -> tuple[BilledCall, ...] | None:
        """What the provider charges for, by its own journal; None with a real one, which shows it to nobody."""
        if not self._urls:
            return None
        async with aiohttp.ClientSession() as http, http.get(f"{self._urls['anthropic']}/control/journal") as answer:
            answer.raise_for_status()
            return billed_calls(await answer.json())

    @property
    def warehouse_url(self) -> str:
        """Where the tools look for the warehouse; empty when the shop packs its orders itself."""
        return f"http://{LOOPBACK}:{self._warehouse_port}" if self._warehouse_port else ""

    async def start_warehouse(self) -> None:
        """Have the warehouse answer.

        Raises:
            DemoError: it did not come up.
        """
        command = ["-m", "examples.support.demo.warehouse_service", str(self._warehouse_port)]
        self._warehouse = await launch(self._plan("warehouse", command, dict(os.environ)))
        give_up = time.monotonic() + START_WAIT_S
        while await self._journal_of_warehouse() is None:
            _still_running(self._warehouse, give_up)
            await asyncio.sleep(0.05)

    async def redirections(self) -> tuple[ShopChange, ...]:
        """What the warehouse did, by its own journal."""
        return tuple(ShopChange("redirected by the warehouse", entry["key"]) for entry in await self._journal_of_warehouse() or ())

    async def _journal_of_warehouse(self) -> list[dict[str, Any]] | None:
        """None while it does not answer."""
        if self._warehouse is None:
            return None
        try:
            async with aiohttp.ClientSession() as http, http.get(f"{self.warehouse_url}/journal") as answer:
                journal: list[dict[str, Any]] = await answer.json()
                return journal
        except aiohttp.ClientConnectionError:
            return None

    async def command(self, *words: str) -> str:
        """What `holdfast WORDS` prints, run as a user runs it.

        Raises:
            DemoError: it failed; has what it said.
        """
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("holdfast"), *words),
            env=self.worker_environment(os.environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, errors = await asyncio.wait_for(process.communicate(), COMMAND_WITHIN_S)
        finally:
            if process.returncode is None:
                process.kill()
        if process.returncode != 0:
            raise DemoError(f"holdfast {' '.join(words)} failed: {errors.decode(errors='replace').strip()}")
        return output.decode(errors="replace")

    async def start_worker(self) -> ServerProcess:
        """Start a worker. It knows the demo's servers and no other; it gets real keys only for a real model."""
        self.workers += 1
        models = self._folder / "models"
        models.mkdir(exist_ok=True)
        (models / "models.yaml").write_text(yaml.safe_dump(self._adjusted(self._models())), encoding="utf-8")
        command = ["-m", "worker", "--agents", str(EXAMPLE), "--agents", str(models)]
        self.worker = await launch(self._plan(f"worker-{self.workers}", command, self.worker_environment(os.environ)))
        return self.worker

    def worker_environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """The environment of a worker, made of the demo's own."""
        kept = dict(own) if self._model else {name: value for name, value in own.items() if name not in _ADDRESSES}
        simulated = {} if self._model else dict.fromkeys(_KEYS, SIMULATED_KEY)
        return (
            kept
            | simulated
            | {
                "TEMPORAL_ADDRESS": self._stack.temporal_address,
                "TEMPORAL_NAMESPACE": self._stack.namespace,
                "DATABASE_URL": self._stack.database_url,
                "SHOP_DATABASE_URL": self._stack.database_url,
                "WAREHOUSE_URL": self.warehouse_url,
                "HOLDFAST_TASK_QUEUE": self.task_queue,
                "HOLDFAST_LOG_FORMAT": "json",
            }
        )

    def _models(self) -> dict[str, Any]:
        """What models.yaml says: the real model for every tier, or the simulated provider behind both names."""
        if self._model:
            return {"tiers": {tier: [self._model] for tier in SIMULATED_TIERS}}
        providers = {name: {"dialect": name, "base_url": url, "api_key_env": f"{name.upper()}_API_KEY"} for name, url in self._urls.items()}
        return {"tiers": SIMULATED_TIERS, "providers": providers}

    async def kill_worker(self) -> float:
        """End the worker as a crash would; gives the moment, in seconds since the epoch, when it was sure to be gone.

        Raises:
            DemoError: it had ended before.
        """
        if self.worker is None or self.worker.ended:
            raise DemoError("there was no worker to kill")
        pid = self.worker.pid
        await self.worker.kill()
        gone_at = time.time()
        if _lives(pid):
            raise DemoError(f"the worker (process {pid}) has outlived SIGKILL")
        return gone_at

    async def close(self) -> None:
        """End all, in order."""
        for process in (self.worker, self._warehouse, self._provider):
            if process is not None and not process.ended:
                await process.stop()

    def _plan(self, name: str, command: list[str], environment: Mapping[str, str]) -> ServerPlan:
        return ServerPlan(
            name=name,
            command=[sys.executable, *command],
            log=self._folder / f"{name.replace(' ', '-')}.log",
            cwd=ROOT,
            env=environment,
            stop_grace_s=40,
        )

    @staticmethod
    def _ready_line(process: ServerProcess | None) -> dict[str, Any] | None:
        if process is None:
            return None
        for line in process.plan.log.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith('{"event": "ready"'):
                ready: dict[str, Any] = json.loads(line)
                return ready
        return None


async def until_agents_are_known(house: House, agents: Callable[[], Awaitable[bool]]) -> None:
    """Wait until the worker has told the database of its agents.

    Raises:
        DemoError: it ended, or took too long.
    """
    give_up = time.monotonic() + START_WAIT_S
    while not await agents():
        _still_running(house.worker, give_up)
        await asyncio.sleep(0.1)


async def _until(found: Callable[[], dict[str, Any] | None], process: ServerProcess) -> dict[str, Any]:
    give_up = time.monotonic() + START_WAIT_S
    while (result := found()) is None:
        _still_running(process, give_up)
        await asyncio.sleep(0.05)
    return result


def _still_running(process: ServerProcess | None, give_up: float) -> None:
    if process is not None and (process.ended or time.monotonic() > give_up):
        raise DemoError(f"{process.plan.name} did not come up. Its last words:\n{process.log_tail()}")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
