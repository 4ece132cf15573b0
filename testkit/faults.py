"""Fault switches for kill tests: a worker process that ends itself by SIGKILL at a named point, and leaves proof that it did.

Points are `WHERE:NAME:MOMENT`: `activity` with the activity's name, `ledger` with the database function or table that is written,
`signal` and `update` with the order's name. Moments are before, during and after: `during` a write means that it was sent and its
answer was not awaited, `after` an activity that its result was not told to Temporal.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from temporalio import activity
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from state.pool import Connection, Database

T = TypeVar("T")

FOLDER_VARIABLE: Final = "FAULTS_FOLDER"
ARMED, FIRED, SEEN = "armed.json", "fired.jsonl", "seen.txt"
DURING_S: Final = 0.02
"""How long an activity runs before it is killed in its midst."""
_WRITES: Final = re.compile(
    r"(?:select\b.*?\bfrom\s+|select\s+)(\w+)\s*\(|\b(?:insert into|update|delete from)\s+(\w+)", re.IGNORECASE | re.DOTALL
)
_NOT_OURS: Final = frozenset({"pg_advisory_xact_lock", "clock_timestamp", "coalesce", "exists", "count", "to_regclass", "jsonb_agg", "now"})


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a process is to die: at the point, when it is reached for the `nth` time."""

    point: str
    nth: int = 1


class Switches:
    """The switches of one process. Armed by a file in the folder; what fired is appended to another, and synced, before the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        armed = folder / f"{ARMED}.{os.environ.get('FAULTS_SLOT', '0')}"
        self._fault = Fault(**json.loads(armed.read_text(encoding="utf-8"))) if armed.exists() else None
        self._reached = 0
        self._seen: set[str] = set()

    def wants(self, point: str) -> bool:
        """Whether the process dies here, now. Every point that is passed is noted once."""
        if point not in self._seen:
            self._seen.add(point)
            with (self._folder / SEEN).open("a", encoding="utf-8") as seen:
                seen.write(point + "\n")
        if self._fault is None or self._fault.point != point:
            return False
        self._reached += 1
        return self._reached == self._fault.nth

    def die(self, point: str) -> None:
        """Leave the proof and end the process as a crash would."""
        line = json.dumps({"point": point, "pid": os.getpid(), "nth": self._reached}) + "\n"
        handle = os.open(self._folder / FIRED, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, line.encode())
        os.fsync(handle)
        os.kill(os.getpid(), signal.SIGKILL)

    def at(self, point: str) -> None:
        """Pass a point."""
        if self.wants(point):
            self.die(point)

    async def around(self, name: str, work: Callable[[], Awaitable[T]], *, during_s: float = 0.0) -> T:
        """Do the work with its three switches."""
        self.at(f"{name}:before")
        if self.wants(f"{name}:during"):
            working = asyncio.ensure_future(work())
            await asyncio.wait([working], timeout=during_s or 0.002)
            self.die(f"{name}:during")
        done = await work()
        self.at(f"{name}:after")
        return done


def armed(folder: Path, slot: int, fault: Fault | None) -> None:
    """Arm the next process of a slot, or none."""
    path = folder / f"{ARMED}.{slot}"
    if fault is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(json.dumps({"point": fault.point, "nth": fault.nth}), encoding="utf-8")


def fired(folder: Path) -> list[str]:
    """The points at which processes have died, in order."""
    path = folder / FIRED
    return [json.loads(line)["point"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def seen(folder: Path) -> list[str]:
    """Every point that some process has passed."""
    path = folder / SEEN
    return sorted(set(path.read_text(encoding="utf-8").split())) if path.exists() else []


def written(sql: str) -> str | None:
    """The name of what a statement writes or calls; None for a plain read."""
    for function, table in _WRITES.findall(sql):
        if table:
            return str(table)
        if function.lower() not in _NOT_OURS:
            return str(function)
    return None


class FaultyDatabase(Database):
    """A pool whose writes have switches; only what an activity writes counts, not the worker's housekeeping."""

    switches: Switches

    async def fetch(self, sql: str, *args: Any) -> Any:
        """All rows."""
        return await self._switched(sql, lambda: super(FaultyDatabase, self).fetch(sql, *args))

    async def fetchrow(self, sql: str, *args: Any) -> Any:
        """The first row, or None."""
        return await self._switched(sql, lambda: super(FaultyDatabase, self).fetchrow(sql, *args))

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """The first column of the first row, or None."""
        return await self._switched(sql, lambda: super(FaultyDatabase, self).fetchval(sql, *args))

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement."""
        return await self._switched(sql, lambda: super(FaultyDatabase, self).execute(sql, *args))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One connection in one transaction, with a switch before it, one before its commit and one after."""
        if not activity.in_activity():
            async with super().transaction() as connection:
                yield connection
            return
        name = f"ledger:transaction_of_{activity.info().activity_type}"
        self.switches.at(f"{name}:before")
        async with super().transaction() as connection:
            yield connection
            self.switches.at(f"{name}:during")
        self.switches.at(f"{name}:after")

    async def _switched(self, sql: str, work: Callable[[], Awaitable[T]]) -> T:
        name = written(sql) if activity.in_activity() else None
        return await (work() if name is None else self.switches.around(f"ledger:{name}", work))


class FaultInterceptor(Interceptor):
    """Puts switches around activities, and around the orders that a run takes."""

    def __init__(self, switches: Switches) -> None:
        self._switches = switches
        _Orders.switches = switches

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Wrap the activity."""
        return _Activity(next, self._switches)

    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:  # noqa: A002
        """Wrap the workflow's orders."""
        return _Orders


class _Activity(ActivityInboundInterceptor):
    def __init__(self, next: ActivityInboundInterceptor, switches: Switches) -> None:  # noqa: A002 - the SDK's name
        super().__init__(next)
        self._switches = switches

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 - the SDK's name
        name = f"activity:{activity.info().activity_type}"
        return await self._switches.around(name, lambda: self.next.execute_activity(input), during_s=DURING_S)


class _Orders(WorkflowInboundInterceptor):
    """The process dies inside a workflow task: Temporal gives the task, with its signal, to another worker."""

    switches: Switches

    async def handle_signal(self, input: HandleSignalInput) -> None:  # noqa: A002 - the SDK's name
        self.switches.at(f"signal:{input.signal}:before")
        await super().handle_signal(input)
        self.switches.at(f"signal:{input.signal}:after")

    async def handle_update_handler(self, input: HandleUpdateInput) -> Any:  # noqa: A002 - the SDK's name
        self.switches.at(f"update:{input.update}:before")
        result = await super().handle_update_handler(input)
        self.switches.at(f"update:{input.update}:after")
        return result
