"""What durability costs: the same job on bare Temporal SDK code and on Holdfast with everything on, side by side."""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.laboratory import Cpu, Laboratory, open_laboratory
from benchmarks.results import Measured, table
from workflows.contracts.runs import RunStatus

ALONE = 40
"""Runs of each side, one at a time, the sides taking turns."""
CROWD = 200
ROUNDS = 3
"""Crowds of each side, taking turns."""
HISTORY_LOOK_UPS = (2, 24, 249)
"""3, 25 and 250 model calls: 5, 49 and 499 steps."""
PARKED = 1_000

Job = Callable[[str], Awaitable[str]]


@dataclass(frozen=True)
class Crowd:
    """One crowd of runs at once."""

    runs_per_s: float
    cpu_ms: Cpu


async def measure() -> Measured:
    """Run all parts; about five minutes."""
    async with open_laboratory() as laboratory:
        figures: dict[str, float | int | str] = {}
        parts = [
            await _latency(laboratory, figures),
            await _throughput(laboratory, figures),
            await _histories(laboratory, figures),
            await _parked(laboratory, figures),
        ]
    return Measured("run", figures, "\n\n".join(parts))


async def _latency(laboratory: Laboratory, figures: dict[str, float | int | str]) -> str:
    rows = []
    for label, model, agent in (("0 ms", "gpt-5-mini", "bench"), ("50 ms", "gpt-5", "bench_slow")):
        _say(f"latency alone, model at {label}")
        bare: list[float] = []
        ours: list[float] = []
        for number in range(ALONE):
            bare.append(await _timed(laboratory.bare(f"bare-{agent}-{number}", model, 2)))
            ours.append(await _timed(laboratory.ours(f"ours-{agent}-{number}", agent, 2)))
        bare_p50, ours_p50 = statistics.median(bare), statistics.median(ours)
        bare_p99, ours_p99 = _p99(bare), _p99(ours)
        rows.append([label, bare_p50 * 1e3, ours_p50 * 1e3, ours_p50 / bare_p50, bare_p99 * 1e3, ours_p99 * 1e3])
        suffix = "" if label == "0 ms" else "_50ms"
        figures[f"p50_ratio{suffix}"] = round(ours_p50 / bare_p50, 3)
        figures[f"p99_ratio{suffix}"] = round(ours_p99 / bare_p99, 3)
    head = ["model takes", "bare p50 ms", "Holdfast p50 ms", "ratio p50", "bare p99 ms", "Holdfast p99 ms"]
    return f"One run at a time, {ALONE} of each side in turns:\n\n" + table(head, rows)


async def _throughput(laboratory: Laboratory, figures: dict[str, float | int | str]) -> str:
    bare: list[Crowd] = []
    ours: list[Crowd] = []
    for turn in range(ROUNDS):
        _say(f"{CROWD} at once, round {turn + 1} of {ROUNDS}")
        bare.append(await _crowd(laboratory, laboratory.bare_worker, lambda n, t=turn: laboratory.bare(f"crowd-bare-{t}-{n}", "gpt-5", 2)))  # type: ignore[misc]
        ours.append(
            await _crowd(laboratory, laboratory.holdfast_worker, lambda n, t=turn: laboratory.ours(f"crowd-ours-{t}-{n}", "bench_slow", 2))
        )  # type: ignore[misc]
    rows: list[list[object]] = []
    for label, crowds in (("bare", bare), ("Holdfast", ours)):
        parts = [statistics.median(getattr(crowd.cpu_ms, part) for crowd in crowds) for part in ("worker", "server", "database", "total")]
        rows.append([label, statistics.median(crowd.runs_per_s for crowd in crowds), *parts])
    ratios = [
        b / a if isinstance(a, float) and isinstance(b, float) and a else float("nan")
        for a, b in zip(rows[0][1:], rows[1][1:], strict=True)
    ]
    rows.append(["ratio", *ratios])
    figures["throughput_ratio"] = round(ratios[0], 3)
    figures["cpu_ratio"] = round(ratios[4], 3)
    figures["worker_cpu_ratio"] = round(ratios[1], 3)
    head = ["side", "runs/s", "worker CPU ms/run", "server CPU ms/run", "database CPU ms/run", "total CPU ms/run"]
    return f"{CROWD} runs at once, the model at 50 ms, {ROUNDS} crowds of each side in turns, medians:\n\n" + table(head, rows)


async def _crowd(laboratory: Laboratory, worker: object, job: Callable[[int], Awaitable[str]]) -> Crowd:
    before = laboratory.cpu(worker)  # type: ignore[arg-type]
    started = time.perf_counter()
    await asyncio.gather(*(job(number) for number in range(CROWD)))
    took_s = time.perf_counter() - started
    used = laboratory.cpu(worker) - before  # type: ignore[arg-type]
    per_run = Cpu(*(part * 1e3 / CROWD for part in (used.worker, used.server, used.database)))
    return Crowd(CROWD / took_s, per_run)


async def _histories(laboratory: Laboratory, figures: dict[str, float | int | str]) -> str:
    rows = []
    for look_ups in HISTORY_LOOK_UPS:
        steps = 2 * look_ups + 1
        _say(f"history of {steps} steps")
        await laboratory.ours(f"history-ours-{steps}", "bench", look_ups)
        await laboratory.bare(f"history-bare-{steps}", "gpt-5-mini", look_ups) if steps < 100 else ""
        ours = await _history(laboratory, f"history-ours-{steps}")
        bare = await _history(laboratory, f"history-bare-{steps}") if steps < 100 else (float("nan"), float("nan"))
        rows.append([steps, ours[0] / steps, ours[1] / steps, bare[0] / steps, bare[1] / steps])
    figures["history_bytes_per_step"] = round(float(rows[-1][1]))
    figures["history_events_per_step"] = round(float(rows[-1][2]), 2)
    figures["history_linear"] = round(float(rows[-1][1]) / float(rows[0][1]), 3)
    head = ["steps", "Holdfast bytes/step", "Holdfast events/step", "bare bytes/step", "bare events/step"]
    text = "History with tool results of 4 KB (continued runs summed up; the bare agent resends its conversation, and is left out at 499 steps):"
    return text + "\n\n" + table(head, rows)


async def _history(laboratory: Laboratory, workflow_id: str) -> tuple[float, float]:
    """Bytes and events over all runs of a workflow's chain."""
    size = events = 0
    run_id: str | None = None
    handle = laboratory.client.get_workflow_handle(workflow_id)
    while True:
        history = await laboratory.client.get_workflow_handle(workflow_id, run_id=run_id or (await _first_run_id(handle))).fetch_history()
        size += sum(event.ByteSize() for event in history.events)
        events += len(history.events)
        last = history.events[-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
        if not run_id:
            return float(size), float(events)


async def _first_run_id(handle: object) -> str:
    description = await handle.describe()  # type: ignore[attr-defined]
    return str(description.raw_description.workflow_execution_info.first_run_id or description.run_id)


async def _parked(laboratory: Laboratory, figures: dict[str, float | int | str]) -> str:
    _say(f"{PARKED} runs parked")
    before = laboratory.holdfast_worker.memory_info().rss / 2**20
    limit = asyncio.Semaphore(50)

    async def start(number: int) -> None:
        async with limit:
            await laboratory.holdfast.start("parked", "look up 2 things", run_id=f"parked-{number}")

    await asyncio.gather(*(start(number) for number in range(PARKED)))
    async with asyncio.timeout(120):
        query = f"AgentName = 'parked' AND AgentStatus = '{RunStatus.PARKED.value}'"
        while (await laboratory.client.count_workflows(query)).count < PARKED:
            await asyncio.sleep(0.5)
    after = laboratory.holdfast_worker.memory_info().rss / 2**20
    figures["parked"] = PARKED
    figures["worker_rss_mb_parked"] = round(after)
    figures["worker_rss_mb_before"] = round(before)
    return f"A worker with {PARKED:,} parked runs holds {after:.0f} MB; before them, after the crowds above, it held {before:.0f} MB."


async def _timed(job: Awaitable[str]) -> float:
    started = time.perf_counter()
    await job
    return time.perf_counter() - started


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
