"""Real servers, real processes that get killed, and a way to wait for what must come true."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from devstack.temporal_program import TemporalProgram, find_program

Eventually = Callable[..., Awaitable[None]]
RunScript = Callable[..., Awaitable["Script"]]


@pytest_asyncio.fixture(scope="session")
async def temporal_program() -> TemporalProgram:
    """The Temporal program of this machine."""
    return await find_program(os.environ, lambda _: None)


@pytest.fixture
def eventually() -> Eventually:
    """Wait until a condition holds; fail when it does not within the time."""

    async def wait(condition: Callable[[], bool], *, within_s: float = 15.0) -> None:
        give_up = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < give_up, "it did not come true in time"
            await asyncio.sleep(0.02)

    return wait


class Script:
    """A Python program in a process of its own, which prints one line of JSON when it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready

    @property
    def pid(self) -> int:
        return self.process.pid


@pytest_asyncio.fixture
async def run_script() -> AsyncIterator[RunScript]:
    """Start a script (the body of an async function with `ready(**fields)` at hand) and wait until it is ready."""
    started: list[asyncio.subprocess.Process] = []

    async def start(body: str, *arguments: str, environment: dict[str, str] | None = None) -> Script:
        source = textwrap.dedent(
            """
            import asyncio, json, os, sys
            from pathlib import Path
            from devstack.postgres import EmbeddedPostgres, PostgresSettings
            from devstack.stack import StackSettings, open_stack

            def ready(**fields):
                print(json.dumps(fields), flush=True)

            async def main():
            {body}

            asyncio.run(main())
            """
        ).format(body=textwrap.indent(textwrap.dedent(body), "    "))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            source,
            *arguments,
            env=(environment or dict(os.environ)) | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        assert line, (await process.stderr.read()).decode()
        return Script(process, json.loads(line))

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
