"""`python -m testkit.faulty_worker --agents PATH`: a worker as `python -m worker`, with the fault switches of `testkit.faults`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path

import worker
from client.settings import Settings
from client.temporal import connect_temporal
from state.migrate import migrate
from telemetry.setup import open_telemetry
from testkit.faults import FOLDER_VARIABLE, FaultInterceptor, FaultyDatabase, Switches


async def serve(settings: Settings, folders: list[Path], switches: Switches) -> None:
    """Serve until SIGTERM, or until a switch ends the process."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await migrate(settings.database_url)
    async with FaultyDatabase.open(settings.database_url, max_size=20) as database:
        assert isinstance(database, FaultyDatabase)  # noqa: S101 - what its `open` gives
        database.switches = switches
        client = await connect_temporal(settings)
        parts = worker.Parts(database=database, interceptors=(FaultInterceptor(switches),))
        async with worker.serving(client, settings.task_queue, parts, folders=folders):
            await stop.wait()


def main(arguments: list[str]) -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m testkit.faulty_worker")
    parser.add_argument("--agents", action="append", type=Path, required=True)
    settings = Settings.from_environment()
    telemetry = open_telemetry(service_name="holdfast-faulty-worker", log_format=settings.log_format)
    asyncio.run(serve(settings, parser.parse_args(arguments).agents, Switches(Path(os.environ[FOLDER_VARIABLE]))))
    telemetry.close()
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)
