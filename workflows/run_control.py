"""Where a run waits and is held: parked steps, pauses, delays; and the steps in flight that a person may break off."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ChildWorkflowError, is_cancelled_exception

from workflows.contracts.errors import FailureClass
from workflows.contracts.failures import CAUSE_CHARS, parked_by, retry_after_s
from workflows.contracts.runs import Approval, Parked, Redrive, RunStatus, Totals
from workflows.contracts.steps import ToolCallRef
from workflows.run_view import AGENT_STATUS, COST_USD, FAILURE_CLASS, WAITING_SINCE
from workflows.scribe import Scribe
from workflows.work_clock import WorkClock

T = TypeVar("T")


class Aborted(Exception):  # noqa: N818 - an order, not an error
    """A person ended the run, or a sub-run reached its limit."""

    def __init__(self, parked: Parked, order: Redrive | None = None) -> None:
        super().__init__(parked.cause)
        self.parked = parked
        self.order = order


class Skipped(Exception):  # noqa: N818 - an order, not an error
    """A person gave the parked call's result, or found out that nothing was done."""

    def __init__(self, result: str, *, done: bool = True) -> None:
        super().__init__(result)
        self.result = result
        self.done = done


class Interrupted(Exception):  # noqa: N818 - an order, not an error
    """A person broke the step off."""


@dataclass(slots=True)
class Letter:
    """One parked step, and the order for it once there is one."""

    parked: Parked
    may_skip: bool
    call: ToolCallRef | None = None
    model_step: int = 0
    order: Redrive | None = None


class RunControl:
    """The run's status, and every step's way through what holds it up."""

    def __init__(
        self, clock: WorkClock, scribe: Scribe, show: Callable[[], None], out_of_time: Callable[[], str | None], *, tells_caller: bool
    ) -> None:
        self._clock = clock
        self._scribe = scribe
        self._show = show
        self._out_of_time = out_of_time
        self._tells_caller = tells_caller
        self._letters: dict[int, Letter] = {}
        self._rulings: dict[int, int] = {}
        self._in_flight: dict[int, tuple[asyncio.Task[Any], bool]] = {}
        self._interrupted: set[int] = set()
        self._wakes = 0
        self._delayed_until: float | None = None
        self._shown = RunStatus.RUNNING
        self._closed: RunStatus | None = None
        self.questions: tuple[Approval, ...] = ()
        """What waits for a person, as the view shows it."""
        self.paused_by: str | None = None
        """Who holds the run; it begins nothing new."""
        self.ending = False
        """The run is to end: steps that are cancelled now are not tried again."""

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        if self._closed:
            return self._closed
        if self._letters:
            return RunStatus.PARKED
        if self.questions:
            return RunStatus.WAITING_APPROVAL
        return RunStatus.RUNNING if self.paused_by is None else RunStatus.PAUSED

    @property
    def ended(self) -> bool:
        """Whether the run has ended."""
        return self._closed is not None

    @property
    def letters(self) -> tuple[Letter, ...]:
        """The steps that cannot go on, in the order in which they were parked; those that have their order are left out."""
        return tuple(letter for letter in self._letters.values() if letter.order is None)

    @property
    def parked(self) -> tuple[Parked, ...]:
        """Why they cannot."""
        return tuple(letter.parked for letter in self._letters.values())

    @property
    def delayed_s(self) -> float | None:
        """Seconds until a delayed step is tried again, or None."""
        return None if self._delayed_until is None else max(0.0, self._delayed_until - workflow.time())

    def rulings(self, step: int) -> int:
        """How often a person ruled that the step's effect, of unknown outcome, may be done again."""
        return self._rulings.get(step, 0)

    def wake(self) -> None:
        """Try delayed steps again now."""
        self._wakes += 1

    def pause(self, by: str | None) -> None:
        """Hold the run, or, with None, let it go on."""
        self.paused_by = by
        self.publish()

    def interrupt(self) -> int:
        """Break off what is in flight, but no effect that happens once; how many steps that were."""
        flying = [(step, task) for step, (task, breakable) in self._in_flight.items() if breakable and not task.done()]
        for step, task in flying:
            self._interrupted.add(step)
            task.cancel()
        return len(flying)

    def close(self, status: RunStatus, totals: Totals, failure: Parked | None = None) -> None:
        """Show the end: nothing waits for anybody any more. A failed run is found by its failure class."""
        self._closed = status
        self._letters.clear()
        self.questions = ()
        self._show()
        updates: list[SearchAttributeUpdate[Any]] = [AGENT_STATUS.value_set(status.value), COST_USD.value_set(float(totals.cost_usd))]
        if failure is not None:
            updates.append(FAILURE_CLASS.value_set(failure.failure_class.value))
        if self._shown is not RunStatus.RUNNING:
            updates.append(WAITING_SINCE.value_unset())
        workflow.upsert_search_attributes(updates)

    async def insist(
        self,
        attempt: Callable[[], Coroutine[Any, Any, T]],
        step: int,
        what: str,
        *,
        call: ToolCallRef | None = None,
        model_step: int = 0,
        breakable: bool = True,
        may_skip: bool = False,
    ) -> T:
        """Await the step; when it fails for good, park it and try again as often as a person says so.

        Raises:
            Interrupted: a person broke it off.
            Aborted: a person ended the run.
            Skipped: a person gave the call's result.
        """
        while True:
            await self.unpaused()
            try:
                return await self._fly(attempt, step, breakable=breakable)
            except (ActivityError, ChildWorkflowError) as error:
                if is_cancelled_exception(error) and (self.ending or workflow.cancellation_reason() is not None):
                    raise
                if is_cancelled_exception(error) and step in self._interrupted:
                    self._interrupted.discard(step)
                    raise Interrupted from error
                wait_s = retry_after_s(error)
                if wait_s is not None:
                    await self._delayed(wait_s, step)
                    continue
                parked = parked_by(error, step, what)
                if parked.failure_class is FailureClass.TRANSIENT and (limit := self._out_of_time()):
                    parked = parked.model_copy(
                        update={"failure_class": FailureClass.LIMIT, "cause": f"{limit}; {parked.cause}"[:CAUSE_CHARS]}
                    )
            await self.park(parked, may_skip=may_skip or call is not None, call=call, model_step=model_step)

    async def _fly(self, attempt: Callable[[], Coroutine[Any, Any, T]], step: int, *, breakable: bool) -> T:
        """One attempt, as a task of its own, so that a person can break it off."""
        task = asyncio.create_task(attempt())
        self._in_flight[step] = (task, breakable)
        try:
            return await task
        except asyncio.CancelledError:
            if step in self._interrupted and not self.ending and workflow.cancellation_reason() is None:
                self._interrupted.discard(step)
                raise Interrupted from None
            raise
        finally:
            self._in_flight.pop(step, None)

    async def unpaused(self) -> None:
        """Wait while a person holds the run."""
        if self.paused_by is not None:
            with self._clock.waiting():
                await workflow.wait_condition(lambda: self.paused_by is None)

    async def _delayed(self, wait_s: float, step: int) -> None:
        """Wait out what holds a step back, for as long as it must; somebody who has changed a budget may end it earlier."""
        self._delayed_until = workflow.time() + wait_s
        self._show()
        await self._woken(wait_s, f"step {step}: throttled")
        self._delayed_until = None
        self._show()

    async def wait_for_batch(self, wait_s: float, what: str) -> bool:
        """Wait by a durable timer, which counts as no work; True when somebody woke the run before its time."""
        try:
            with self._clock.waiting():
                return await self._woken(wait_s, what)
        except asyncio.CancelledError:
            if self._interrupted:  # the run goes on, so this wait is over; every other cancellation ends the run
                self._clock.ended_wait()
            raise

    async def _woken(self, wait_s: float, what: str) -> bool:
        seen = self._wakes
        try:
            await workflow.wait_condition(lambda: self._wakes > seen, timeout=wait_s, timeout_summary=what)
        except TimeoutError:
            return False
        return True

    async def park(self, parked: Parked, *, may_skip: bool, call: ToolCallRef | None = None, model_step: int = 0) -> None:
        """Wait, visibly, until a person says how to go on.

        Raises:
            Aborted: the run is to end, or a sub-run has reached a limit, which its caller is told instead.
            Skipped: the call's result is given.
        """
        if self._tells_caller and parked.failure_class is FailureClass.LIMIT:
            self.ending = True
            raise Aborted(parked)
        filed = self._scribe.file(parked, call_id=call.call_id if call else "", model_step=model_step)
        letter = self._letters[parked.step] = Letter(filed, may_skip, call, model_step)
        with self._clock.waiting():
            await workflow.wait_condition(lambda: letter.order is not None)
            if self._letters.get(parked.step) is letter:
                del self._letters[parked.step]
        order = letter.order
        assert order is not None  # noqa: S101 - what was waited for
        if order.action == "abort":
            self.ending = True
            raise Aborted(filed, order)
        if order.action in ("skip", "not_done"):
            raise Skipped(order.result, done=order.action == "skip")
        if parked.failure_class is FailureClass.UNKNOWN_OUTCOME:
            self._rulings[parked.step] = self.rulings(parked.step) + 1

    def publish(self) -> None:
        """Show a changed status; search attributes cost an event, so only a change is written."""
        self._show()
        status = self.status
        if status is self._shown:
            return
        updates: list[SearchAttributeUpdate[Any]] = [AGENT_STATUS.value_set(status.value)]
        if status is RunStatus.RUNNING:
            updates.append(WAITING_SINCE.value_unset())
        elif self._shown is RunStatus.RUNNING:
            updates.append(WAITING_SINCE.value_set(workflow.now()))
        self._shown = status
        if self._letters:
            updates.append(FAILURE_CLASS.value_set(self.parked[0].failure_class.value))
        elif status is RunStatus.RUNNING:
            updates.append(FAILURE_CLASS.value_unset())
        workflow.upsert_search_attributes(updates)
