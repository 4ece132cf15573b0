"""How long a run has worked and waited: waiting for people or for a batch is nobody's working time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from temporalio import workflow


class WorkClock:
    """Two sums of seconds. Steps that run side by side wait as one."""

    def __init__(self, worked_s: float, waited_s: float, changed: Callable[[], None]) -> None:
        self._worked_s = worked_s
        self._waited_s = waited_s
        self._sub_run_waited_s = 0.0
        self._since = workflow.time()
        self._waits = 0
        self._changed = changed

    @property
    def worked_s(self) -> float:
        """Seconds of work so far; waiting for people or for a batch does not count."""
        return self._worked_s + (0.0 if self._waits else workflow.time() - self._since)

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for people or a batch so far, sub-runs' waits included."""
        return self._waited_s

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A wait, for the length of the block."""
        if self._waits == 0:
            self._worked_s += workflow.time() - self._since
            self._since = workflow.time()
        self._waits += 1
        self._changed()
        yield  # no `finally`: an exception here ends the run, or is the worker dropping it from its cache
        self.ended_wait()
        self._changed()

    def ended_wait(self) -> None:
        """A wait is over."""
        self._waits -= 1
        if self._waits == 0:
            self._waited_s += workflow.time() - self._since
            self._since = workflow.time()

    def sub_run_waited(self, waited_s: float) -> None:
        """Note how long a sub-run waited for people; what runs side by side waits at the same time, so the longest counts."""
        self._sub_run_waited_s = max(self._sub_run_waited_s, waited_s)

    @contextmanager
    def waits_of_sub_runs_forgiven(self) -> Iterator[None]:
        """Take out of the time worked within the block what its sub-runs waited for people."""
        before_s = self.worked_s
        self._sub_run_waited_s = 0.0
        yield
        forgiven_s = min(self._sub_run_waited_s, self.worked_s - before_s)
        self._worked_s -= forgiven_s
        self._waited_s += forgiven_s
