"""The development stack for a test session: started once, in a thread of its own, so that tests may each have their own event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

from devstack.stack import RunningStack, StackSettings, open_stack


@contextlib.contextmanager
def session_stack(data: Path | None = None) -> Iterator[RunningStack]:
    """Run PostgreSQL and Temporal for the length of the block; TEMPORAL_ADDRESS and DATABASE_URL are used where set.

    Raises:
        DevStackError: a server could not be brought up; names the remedies.
    """
    ready: Future[RunningStack] = Future()
    done = asyncio.Event()
    loop = asyncio.new_event_loop()

    async def hold() -> None:
        try:
            async with open_stack(StackSettings(data=data, ui_port=None)) as stack:
                ready.set_result(stack)
                await done.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=lambda: loop.run_until_complete(hold()), name="holdfast-stack", daemon=True)
    thread.start()
    try:
        yield ready.result()
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(timeout=60)
        if not thread.is_alive():
            loop.close()
