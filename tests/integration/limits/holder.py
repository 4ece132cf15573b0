"""A worker that takes a call in the air and then stands still, to be killed: `python -m tests.integration.limits.holder DSN`."""

from __future__ import annotations

import asyncio
import sys

from activities.inference.limiter import Limiter, Slot
from state.pool import Database
from tests.integration.limits.asking import ask, calls


async def main(dsn: str) -> None:
    """Hold for ever."""
    async with Database.open(dsn) as database, Limiter(database, worker="victim").open() as limiter:
        given = await limiter.acquire(ask("v:1", (calls(1), 1)))
        print("held" if isinstance(given, Slot) else "not held", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
