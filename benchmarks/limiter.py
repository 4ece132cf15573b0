"""How many slots four worker processes get of one hot limit in a second, and how long one takes; PostgreSQL on the same machine."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from activities.inference.buckets import Alternative, Ask, Bucket, BucketKind, Demand, Measure
from activities.inference.limiter import Limiter, Slot
from benchmarks.layer import cpu_ms_per_call
from benchmarks.results import Measured, table
from devstack.postgres import EmbeddedPostgres, PostgresSettings
from state.migrate import migrate
from state.pool import Database
from workflows.contracts.inference import Priority

PROCESSES = 4
CALLERS = 48
"""In each process; each asks again as soon as it has its slot."""
SECONDS = 8.0
WARM_S = 2.0
HOT = Bucket("provider:hot requests/min", BucketKind.RATE, Measure.REQUESTS, 60e6, 60.0, 0.1)


async def measure() -> Measured:
    """Four processes for ten seconds, on a server with its durability on; then what a call costs through the whole layer."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as folder:
        postgres = EmbeddedPostgres(PostgresSettings(folder=Path(folder) / "postgres"))
        async with postgres.running():
            await migrate(postgres.dsn)
            start_at = time.time() + 2.0
            workers = await asyncio.gather(*(_worker(postgres.dsn, number, start_at) for number in range(PROCESSES)))
            layer_ms, sdk_ms = await cpu_ms_per_call(postgres.dsn, Path(folder))
    took_ms = [each for worker in workers for each in worker]
    figures: dict[str, float | int | str] = {
        "acquires_per_s": round(len(took_ms) / SECONDS),
        "p99_ms": round(statistics.quantiles(took_ms, n=100, method="inclusive")[98], 2),
        "cpu_ms_per_call_over_sdk": round(layer_ms - sdk_ms, 2),
        "cpu_ratio_to_sdk": round(layer_ms / sdk_ms, 2),
    }
    head = ["processes", "callers each", "acquires/s", "p50 ms", "p99 ms"]
    row = [PROCESSES, CALLERS, float(figures["acquires_per_s"]), statistics.median(took_ms), float(figures["p99_ms"])]
    return Measured(
        "limiter",
        figures,
        "One hot limit, every slot free at once; near slots commit asynchronously (docs/adr/0012):\n\n" + table(head, [row]),
    )


async def _worker(dsn: str, number: int, start_at: float) -> list[float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.limiter", dsn, str(number), str(start_at), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, "a worker of the benchmark failed"
    found: list[float] = json.loads(out)
    return found


async def _ask_always(dsn: str, number: int, start_at: float) -> list[float]:
    took_ms: list[float] = []
    alternatives = (Alternative("hot:model", (Demand(HOT, 1),)),)
    async with Database.open(dsn, max_size=3) as database, Limiter(database, worker=f"bench-{number}").open() as limiter:
        await asyncio.sleep(max(0.0, start_at - time.time()))
        first, last = start_at + WARM_S, start_at + WARM_S + SECONDS

        async def caller(name: int) -> None:
            count = 0
            while (began := time.time()) < last:
                given = await limiter.acquire(Ask(f"{number}-{name}:{count}", Priority.NORMAL, alternatives, 6.0, 120.0))
                assert isinstance(given, Slot)
                limiter.settle(given.lease, None)
                count += 1
                ended = time.time()
                if first <= ended < last:
                    took_ms.append((ended - began) * 1e3)

        await asyncio.gather(*(caller(name) for name in range(CALLERS)))
    return took_ms


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_ask_always(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))))
