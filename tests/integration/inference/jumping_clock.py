"""A worker's process whose clock jumps when it is told to: `python -m tests.integration.inference.jumping_clock DSN NAME`."""

from __future__ import annotations

import asyncio
import datetime
import sys
import time
from typing import Any

REAL = datetime.datetime
_shift_s = 0.0


class _Kind(type):
    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, REAL)


class Jumping(REAL, metaclass=_Kind):
    """Dates of the clock that jumps."""

    __slots__ = ()

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        """The jumped moment."""
        return REAL.now(tz) + datetime.timedelta(seconds=_shift_s)


def install() -> None:
    """Put the clock in the place of Python's own, for all that is imported from now on. Monotonic clocks never jump."""
    real = time.time
    time.time = lambda: real() + _shift_s  # type: ignore[assignment]
    time.time_ns = lambda: int(time.time() * 1e9)  # type: ignore[assignment]
    datetime.datetime = Jumping  # type: ignore[misc]


def jump(seconds: float) -> None:
    """So far from the true time, from now on."""
    global _shift_s
    _shift_s = seconds


if __name__ == "__main__":
    install()
    from tests.integration.inference import jumpy_worker

    asyncio.run(jumpy_worker.serve(sys.argv[1], sys.argv[2], sys.modules["__main__"]))
