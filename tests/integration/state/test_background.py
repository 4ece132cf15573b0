"""A background task ends for certain, also when something in it swallows the first cancellation."""

from __future__ import annotations

import asyncio
import contextlib

from state.background import end


async def test_a_task_that_swallows_a_cancellation_is_cancelled_again() -> None:
    swallowed, began = asyncio.Event(), asyncio.Event()

    async def goes_on() -> None:
        began.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        swallowed.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(goes_on())
    await began.wait()
    async with asyncio.timeout(10):
        await end(task)
    assert swallowed.is_set()
    assert task.cancelled()


async def test_a_task_that_had_failed_is_ended_without_raising() -> None:
    async def fails() -> None:
        raise ValueError("on its own")

    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    await end(task)
    assert task.done()
