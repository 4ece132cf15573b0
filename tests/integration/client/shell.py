"""`holdfast` as a user types it: in processes of its own, that are ended by signals and leave something behind or not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.integration.client.conftest import AGENTS

HERE = Path(__file__).parent
HOLDFAST = (sys.executable, "-m", "client.command_line.main")
WITHIN_S = 90.0


@dataclass(frozen=True)
class Shell:
    """A shell that finds the stack of a data folder. Bytecode is kept, as that of an installed package is."""

    data: Path

    @property
    def environ(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "TEMPORAL_ADDRESS")}
        compiled = {"PYTHONPYCACHEPREFIX": str(self.data.parent.parent / "compiled"), "PYTHONDONTWRITEBYTECODE": ""}
        return own | compiled | {"HOLDFAST_DATA": str(self.data)}

    def run(self, *arguments: str, input_: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*HOLDFAST, *arguments], input=input_, capture_output=True, text=True, env=self.environ, timeout=WITHIN_S, check=False
        )

    def json(self, *arguments: str) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    def begin(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*HOLDFAST, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environ, **options
        )


@dataclass(frozen=True)
class Dev:
    """A `holdfast dev` that is ready."""

    process: subprocess.Popen[str]
    ready: dict[str, Any]
    shell: Shell
    log: Path

    def family(self) -> list[psutil.Process]:
        """Every process below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def worker(self) -> psutil.Process:
        return next(one for one in self.family() if one.cmdline()[1:4] == ["-P", "-m", "worker"])

    def end(self, number: signal.Signals) -> tuple[int, list[psutil.Process]]:
        """Send the signal; the exit code, and what it has left behind after a while."""
        family = self.family()
        assert len(family) >= 3
        self.process.send_signal(number)
        code = self.process.wait(WITHIN_S)
        _, left = psutil.wait_procs(family, timeout=20)
        return code, left


@contextlib.contextmanager
def running_dev(data: Path, *options: str, agents: Path = AGENTS) -> Iterator[Dev]:
    """A `holdfast dev` with a simulated provider, killed with all it started when the block ends."""
    shell, log = Shell(data), data.parent / f"{data.name}.log"
    command = [*HOLDFAST, "dev", "--json", "--port", "0", "--ui-port", "0", "--agents", str(agents)]
    command += ["--simulate", "--policy", f"{HERE / 'answers.py'}:answer", *options]
    with log.open("w") as lines:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=lines, text=True, env=shell.environ)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Dev(process, json.loads(line), shell, log)
    finally:
        with process:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def until(found: Callable[[], bool], within_s: float = WITHIN_S) -> None:
    """Wait for a condition of other processes."""
    give_up = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.1)
