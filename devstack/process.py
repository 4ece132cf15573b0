"""A server process that cannot outlive us: started through `supervisor.py`, which ends it when our end of a pipe closes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from devstack.errors import ServerStartError

SUPERVISOR: Final = Path(__file__).with_name("supervisor.py")
REPORT_WAIT_S: Final = 20.0


@dataclass(frozen=True, kw_only=True)
class ServerPlan:
    """How to run one server, and how to end it."""

    name: str
    command: Sequence[str]
    log: Path
    cwd: Path
    env: Mapping[str, str] | None = None
    stop_signals: Sequence[int] = (signal.SIGTERM,)
    stop_grace_s: float = 10.0
    uid: int | None = None
    gid: int | None = None
    enter_any_folder: bool = False
    pass_fds: Sequence[int] = ()
    remove: Sequence[Path] = field(default=())
    """Folders that go when the server has ended, also when nobody is left to remove them."""


class ServerProcess:
    """One running server; made by `launch`."""

    def __init__(self, plan: ServerPlan, supervisor: asyncio.subprocess.Process, pid: int) -> None:
        self.plan = plan
        self.pid = pid
        self._supervisor = supervisor

    @property
    def supervisor_pid(self) -> int:
        """The process that stands between us and the server."""
        return self._supervisor.pid

    @property
    def ended(self) -> bool:
        """Whether the server has ended."""
        return self._supervisor.returncode is not None

    async def wait(self) -> int:
        """Wait until the server has ended; its exit status, negative for a signal."""
        assert self._supervisor.stdout is not None  # noqa: S101 - given at launch
        last = b""
        async for line in self._supervisor.stdout:
            last = line
        await self._supervisor.wait()
        report = json.loads(last) if last else {}
        return int(report.get("exit", -signal.SIGKILL))

    async def stop(self) -> int:
        """End the server in order and wait for it; its exit status."""
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.write(b"stop\n")
        return await self.wait()

    async def kill(self) -> int:
        """End the server as a crash would, with SIGKILL, and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return await self.wait()

    def log_tail(self, lines: int = 8) -> str:
        """The last lines that the server wrote."""
        return log_tail(self.plan.log, lines)


async def launch(plan: ServerPlan) -> ServerProcess:
    """Start a server under its supervisor. Raises ServerStartError when its program cannot be run."""
    log = await asyncio.to_thread(open_log, plan.log)
    try:
        supervisor = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            str(SUPERVISOR),
            json.dumps(supervisor_arguments(plan)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=plan.env,
            pass_fds=tuple(plan.pass_fds),
            start_new_session=True,  # Ctrl-C in the terminal is ours to hear, not the server's
        )
    finally:
        os.close(log)
    assert supervisor.stdout is not None  # noqa: S101 - given above
    try:
        line = await asyncio.wait_for(supervisor.stdout.readline(), REPORT_WAIT_S)
    except BaseException:
        supervisor.kill()  # the kernel ends the server with it
        raise
    if not line or "pid" not in (report := json.loads(line)):
        await supervisor.wait()
        raise ServerStartError(f"{plan.name} could not be run ({plan.command[0]}): {log_tail(plan.log)}")
    return ServerProcess(plan, supervisor, int(report["pid"]))


def supervisor_arguments(plan: ServerPlan) -> dict[str, object]:
    """The part of the plan that the supervisor reads."""
    return {
        "command": list(plan.command),
        "cwd": str(plan.cwd),
        "parent_pid": os.getpid(),
        "stop_signals": [int(number) for number in plan.stop_signals],
        "stop_grace_s": plan.stop_grace_s,
        "uid": plan.uid,
        "gid": plan.gid,
        "enter_any_folder": plan.enter_any_folder,
        "pass_fds": list(plan.pass_fds),
        "remove": [str(folder) for folder in plan.remove],
    }


def open_log(path: Path) -> int:
    """Open a new log file, keeping the one of the start before under the suffix `.1`; a file descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.replace(path.with_name(path.name + ".1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def log_tail(path: Path, lines: int = 8) -> str:
    """The last lines of a log file, or a word on why there are none."""
    try:
        with path.open(errors="replace") as stream:
            tail = deque(stream, maxlen=lines)
    except OSError:
        return "(no log)"
    return "".join(tail).strip() or "(nothing was logged)"
