"""Where benchmarks of whole runs take place: a folder, a simulated provider, a task queue of its own, and the environment of processes."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.laboratory import PROVIDER_KEY
from client.settings import Settings
from devstack.stack import RunningStack
from testkit.processes import addresses, provider_process


@dataclass(frozen=True)
class Premises:
    """Everything but workers and clients."""

    settings: Settings
    folder: Path
    environ: dict[str, str]
    control_url: str

    async def journal(self) -> list[dict[str, Any]]:
        """Every request that the provider has seen."""
        async with aiohttp.ClientSession() as http, http.get(f"{self.control_url}/journal") as answer:
            return list(await answer.json())


@contextlib.asynccontextmanager
async def open_premises(stack: RunningStack, name: str, policy: str, options: Sequence[str] = ()) -> AsyncIterator[Premises]:
    """Open them on a stack, with a provider that answers by the policy."""
    with tempfile.TemporaryDirectory(prefix=f"holdfast-{name}-") as path:
        folder = Path(path)
        environ = dict(os.environ) | addresses(stack)
        settings = Settings(
            temporal_address=stack.temporal_address,
            namespace=stack.namespace,
            database_url=stack.database_url,
            task_queue=f"{name}-{uuid.uuid4().hex[:8]}",
        )
        async with provider_process(policy, environ, folder, options) as urls:
            environ |= {
                "HOLDFAST_TASK_QUEUE": settings.task_queue,
                "BENCH_PROVIDER_URL": urls.openai,
                "BENCH_PROVIDER_KEY": PROVIDER_KEY,
            }
            yield Premises(settings, folder, environ, urls.control)
