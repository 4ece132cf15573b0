"""What durability costs: the same job on bare Temporal SDK code and on Holdfast with everything on, side by side."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from temporalio.client import WorkflowHandle

from benchmarks.laboratory import Cpu, Laboratory, Side, open_laboratory
from benchmarks.results import Measured, table
from workflows.contracts.runs import RunStatus

ALONE = {"0 ms": 200, "50 ms": 100}
"""Runs of each side, one at a time, by how long the model takes."""
CROWD = 200
ROUNDS = 2
"""Crowds of each side: first one side begins, then the other."""
SETTLE_S = 10.0
"""After a crowd, and counted to it: timers of ended steps go off that much later on both sides."""
HISTORY_LOOK_UPS = (2, 24, 249)
"""3, 25 and 250 model calls: 5, 49 and 499 steps."""
BARE_MAX_STEPS = 100
"""The bare agent's history grows with the square of its steps."""
PARKED = 1_000

Figures = dict[str, float | int | str]


@dataclass(frozen=True)
class Crowd:
    """One crowd of runs at once; CPU by run, what the parts use while idle taken out."""

    runs_per_s: float
    cpu_ms: Cpu


async def measure() -> Measured:
    """Run all parts; about four minutes on an otherwise idle machine."""
    async with open_laboratory() as laboratory:
        figures: Figures = {}
        sides = await laboratory.sides()
        parts = [
            await _latency(sides, figures),
            await _throughput(laboratory, sides, figures),
            await _histories(laboratory, sides, figures),
            await _parked(laboratory, figures),
            "What the parts cost, what was tried, and why the rest remains: [README.md](README.md).",
        ]
    return Measured("run", figures, "\n\n".join(parts))


async def _latency(sides: Sequence[Side], figures: Figures) -> str:
    rows: list[list[object]] = []
    for label, count in ALONE.items():
        _say(f"latency alone, model at {label}, {count} of each side")
        took_s: dict[str, list[float]] = {side.name: [] for side in sides}
        for number in range(count):
            for side in sides if number % 2 else reversed(sides):
                job = side.slow if label == "50 ms" else side.at_once
                took_s[side.name].append(await _timed(job(f"alone-{label[:2].strip()}-{side.name}-{number}", 2)))
        bare, ours = took_s.values()
        p50 = [statistics.median(values) * 1e3 for values in (bare, ours)]
        p99 = [_p99(values) * 1e3 for values in (bare, ours)]
        rows.append([label, count, *p50, p50[1] / p50[0], *p99, p99[1] / p99[0]])
        suffix = "" if label == "0 ms" else "_50ms"
        figures[f"p50_ratio{suffix}"] = round(p50[1] / p50[0], 3)
        figures[f"p99_ratio{suffix}"] = round(p99[1] / p99[0], 3)
    head = ["model takes", "runs a side", "bare p50 ms", "Holdfast p50 ms", "ratio p50", "bare p99 ms", "Holdfast p99 ms", "ratio p99"]
    return "One run at a time, the sides taking turns:\n\n" + table(head, rows)


async def _throughput(laboratory: Laboratory, sides: Sequence[Side], figures: Figures) -> str:
    crowds: dict[str, list[Crowd]] = {side.name: [] for side in sides}
    for turn in range(ROUNDS):
        for side in reversed(sides) if turn % 2 else sides:
            _say(f"{CROWD} at once, {side.name}, round {turn + 1} of {ROUNDS}")
            crowds[side.name].append(await _crowd(laboratory, side, turn))
    rows = [_medians(crowds[side.name]) for side in sides]
    ratios = [ours / bare if bare else float("nan") for bare, ours in zip(*rows, strict=True)]
    figures["throughput_ratio"] = round(ratios[0], 3)
    figures["cpu_ratio"] = round(ratios[4], 3)
    figures["worker_cpu_ratio"] = round(ratios[1], 3)
    figures["server_cpu_ratio"] = round(ratios[2], 3)
    figures["database_cpu_ms"] = round(rows[1][3], 2)
    head = ["side", "runs/s", "worker CPU ms/run", "server CPU ms/run", "database CPU ms/run", "total CPU ms/run"]
    text = (
        f"{CROWD} runs at once, the model at 50 ms, {ROUNDS} crowds of each side in turns, medians. CPU is counted until {SETTLE_S:g} s "
        "after a crowd's end, less what the parts use while idle:"
    )
    return text + "\n\n" + table(head, [["bare", *rows[0]], ["Holdfast", *rows[1]], ["ratio", *ratios]])


async def _crowd(laboratory: Laboratory, side: Side, turn: int) -> Crowd:
    before, started = laboratory.cpu(side.worker), time.perf_counter()
    await asyncio.gather(*(side.slow(f"crowd-{side.name}-{turn}-{number}", 2) for number in range(CROWD)))
    took_s = time.perf_counter() - started
    await asyncio.sleep(SETTLE_S)
    used = laboratory.cpu(side.worker) - before - side.idle * (time.perf_counter() - started)
    return Crowd(CROWD / took_s, used * (1e3 / CROWD))


def _medians(crowds: Sequence[Crowd]) -> list[float]:
    parts = [[crowd.runs_per_s, crowd.cpu_ms.worker, crowd.cpu_ms.server, crowd.cpu_ms.database, crowd.cpu_ms.total] for crowd in crowds]
    return [statistics.median(values) for values in zip(*parts, strict=True)]


async def _histories(laboratory: Laboratory, sides: Sequence[Side], figures: Figures) -> str:
    rows: list[list[float]] = []
    for look_ups in HISTORY_LOOK_UPS:
        steps = 2 * look_ups + 1
        _say(f"history of {steps} steps")
        row = [float(steps)]
        for side in reversed(sides):
            if side.name == "bare" and steps > BARE_MAX_STEPS:
                row += [float("nan"), float("nan")]
                continue
            run_id = f"history-{side.name}-{steps}"
            await side.at_once(run_id, look_ups)
            size, events = await _history(laboratory, run_id)
            row += [size / steps, events / steps]
        rows.append(row)
    figures["history_bytes_per_step"] = round(rows[-1][1])
    figures["history_events_per_step"] = round(rows[-1][2], 2)
    figures["history_linear"] = round(rows[-1][1] / rows[0][1], 3)
    head = ["steps", "Holdfast bytes/step", "Holdfast events/step", "bare bytes/step", "bare events/step"]
    text = (
        "History with tool results of 4 KB; continued runs are summed up. The bare agent resends its conversation, and is left out at "
        f"{rows[-1][0]:g} steps:"
    )
    return text + "\n\n" + table(head, rows)


async def _history(laboratory: Laboratory, workflow_id: str) -> tuple[int, int]:
    """Bytes and events over all runs of a workflow's chain."""
    size = events = 0
    run_id: str | None = await _first_run_id(laboratory.client.get_workflow_handle(workflow_id))
    while run_id:
        history = await laboratory.client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
        size += sum(event.ByteSize() for event in history.events)
        events += len(history.events)
        run_id = history.events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return size, events


async def _first_run_id(handle: WorkflowHandle[Any, Any]) -> str:
    description = await handle.describe()
    return description.raw_description.workflow_execution_info.first_run_id or description.run_id


async def _parked(laboratory: Laboratory, figures: Figures) -> str:
    _say(f"{PARKED} runs parked")
    before = laboratory.holdfast_worker.memory_info().rss / 2**20
    limit = asyncio.Semaphore(50)

    async def start(number: int) -> None:
        async with limit:
            await laboratory.holdfast.start("parked", "look up 2 things", run_id=f"parked-{number}")

    await asyncio.gather(*(start(number) for number in range(PARKED)))
    await _all_parked(laboratory)
    after = laboratory.holdfast_worker.memory_info().rss / 2**20
    figures["parked"] = PARKED
    figures["worker_rss_mb_parked"] = round(after)
    figures["worker_rss_mb_before"] = round(before)
    return f"A worker with {PARKED:,} parked runs holds {after:.0f} MB; before them, after the crowds above, it held {before:.0f} MB."


async def _all_parked(laboratory: Laboratory) -> None:
    query = f"AgentName = 'parked' AND AgentStatus = '{RunStatus.PARKED.value}'"
    async with asyncio.timeout(180):
        while (await laboratory.client.count_workflows(query)).count < PARKED:  # noqa: ASYNC110 - Temporal's visibility tells nobody
            await asyncio.sleep(0.5)


async def _timed(job: Awaitable[str]) -> float:
    started = time.perf_counter()
    await job
    return time.perf_counter() - started


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
