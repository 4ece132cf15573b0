"""Where a run waits for people: parked steps, approvals, and the clock that does not count such waits."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate
from temporalio.exceptions import ActivityError, ChildWorkflowError, is_cancelled_exception

from workflows.contracts.errors import FailureClass
from workflows.contracts.failures import CAUSE_CHARS, parked_by, retry_after_s
from workflows.contracts.messages import Frozen
from workflows.contracts.runs import Approval, Decision, Parked, Redrive, RunStatus, ToolCallRef, Totals
from workflows.run_view import AGENT_STATUS, COST_USD, FAILURE_CLASS

T = TypeVar("T")
OrderT = TypeVar("OrderT", bound=Frozen)


class Aborted(Exception):  # noqa: N818 - an order, not an error
    """A person ended the run, or a sub-run reached its limit."""

    def __init__(self, parked: Parked) -> None:
        super().__init__(parked.cause)
        self.parked = parked


class Skipped(Exception):  # noqa: N818 - an order, not an error
    """A person gave the parked call's result."""

    def __init__(self, result: str) -> None:
        super().__init__(result)
        self.result = result


def read_order(kind: type[OrderT], given: tuple[Any, ...]) -> OrderT | None:
    """What a person sent by a signal; nothing at all means the defaults, and what cannot be read is logged and changes nothing.

    Anybody can send anything by the Temporal UI. A typed parameter would raise on a wrong number of arguments, and fail the
    workflow task for ever.
    """
    try:
        (order,) = given or ({},)
        return kind.model_validate(order)
    except ValueError:
        workflow.logger.warning("signal.refused", extra={"reason": f"it takes one {kind.__name__} as JSON"})
        return None


class RunControl:
    """The run's status, and every wait that a person ends."""

    def __init__(
        self, worked_s: float, waited_s: float, show: Callable[[], None], out_of_time: Callable[[], str | None], *, tells_caller: bool
    ) -> None:
        self._show = show
        self._out_of_time = out_of_time
        self._tells_caller = tells_caller
        self._worked_s = worked_s
        self._waited_s = waited_s
        self._sub_run_waited_s = 0.0
        self._since = workflow.time()
        self._waits = 0
        self._parked: dict[int, Parked] = {}
        self._rulings: dict[int, int] = {}
        self._redrives: list[Redrive] = []
        self._approvals: dict[str, Approval] = {}
        self._decisions: dict[str, tuple[Decision, bool]] = {}
        self._aborted = False
        self._wakes = 0
        self._delayed_until: float | None = None
        self._shown = RunStatus.RUNNING
        self._closed: RunStatus | None = None

    @property
    def status(self) -> RunStatus:
        """Where the run stands."""
        if self._closed:
            return self._closed
        if self._parked:
            return RunStatus.PARKED
        return RunStatus.WAITING_APPROVAL if self._approvals else RunStatus.RUNNING

    @property
    def parked(self) -> Parked | None:
        """The first step that cannot go on."""
        return next(iter(self._parked.values()), None)

    @property
    def approvals(self) -> tuple[Approval, ...]:
        """The tool calls that wait for a yes or no."""
        return tuple(self._approvals.values())

    @property
    def worked_s(self) -> float:
        """Seconds of work so far; waiting for people does not count."""
        return self._worked_s + (0.0 if self._waits else workflow.time() - self._since)

    @property
    def waited_s(self) -> float:
        """Seconds spent waiting for people so far, sub-runs' waits included."""
        return self._waited_s

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

    def rulings(self, step: int) -> int:
        """How often a person ruled that the step's effect, of unknown outcome, may be done again."""
        return self._rulings.get(step, 0)

    def decide(self, decision: Decision, *, approved: bool) -> None:
        """Note a decision for one waiting call, or for all; a call's first decision counts."""
        waiting = list(self._approvals) if decision.call_id is None else [decision.call_id]
        for call_id in waiting:
            if call_id in self._approvals:
                self._decisions.setdefault(call_id, (decision, approved))

    def redrive(self, order: Redrive) -> bool:
        """Note an order for what is parked; without anything parked it is no order."""
        if not self._parked:
            workflow.logger.warning("redrive.refused", extra={"reason": "the run is not parked"})
            return False
        self._redrives.append(order)
        return True

    def close(self, status: RunStatus, totals: Totals, failure: Parked | None = None) -> None:
        """Show the end: nothing waits for anybody any more. A failed run is found by its failure class."""
        self._closed = status
        self._parked.clear()
        self._approvals.clear()
        self._show()
        updates: list[SearchAttributeUpdate[Any]] = [AGENT_STATUS.value_set(status.value), COST_USD.value_set(float(totals.cost_usd))]
        if failure is not None:
            updates.append(FAILURE_CLASS.value_set(failure.failure_class.value))
        workflow.upsert_search_attributes(updates)

    async def insist(self, attempt: Callable[[], Awaitable[T]], step: int, what: str) -> T:
        """Await the step; when it fails for good, park it and try again as often as a person says so."""
        while True:
            try:
                return await attempt()
            except (ActivityError, ChildWorkflowError) as error:
                if is_cancelled_exception(error) and (self._aborted or workflow.cancellation_reason() is not None):
                    raise
                wait_s = retry_after_s(error)
                if wait_s is not None:
                    await self._delayed(wait_s, step)
                    continue
                parked = parked_by(error, step, what)
                if parked.failure_class is FailureClass.TRANSIENT and (limit := self._out_of_time()):
                    parked = parked.model_copy(
                        update={"failure_class": FailureClass.LIMIT, "cause": f"{limit}; {parked.cause}"[:CAUSE_CHARS]}
                    )
            await self.park(parked, may_skip=what.startswith("run_tool"))

    def wake(self) -> None:
        """End the waits for a budget or a limit: what they wait for may have changed."""
        self._wakes += 1

    async def _delayed(self, wait_s: float, step: int) -> None:
        """Wait by a durable timer, until the time is up or somebody wakes the run."""
        seen = self._wakes
        self._delayed_until = workflow.time() + wait_s
        self._show()
        with contextlib.suppress(TimeoutError):
            await workflow.wait_condition(lambda: self._wakes > seen, timeout=wait_s, timeout_summary=f"step {step}: throttled")
        self._delayed_until = None
        self._show()

    @property
    def delayed_s(self) -> float | None:
        """Seconds until a delayed step is tried again, or None."""
        return None if self._delayed_until is None else max(0.0, self._delayed_until - workflow.time())

    async def park(self, parked: Parked, *, may_skip: bool) -> None:
        """Wait, visibly, until a person says how to go on.

        Raises:
            Aborted: the run is to end, or a sub-run has reached a limit, which its caller is told instead.
            Skipped: the call's result is given.
        """
        if self._tells_caller and parked.failure_class is FailureClass.LIMIT:
            self._aborted = True
            raise Aborted(parked)
        self._parked[parked.step] = parked
        while True:
            seen = len(self._redrives)
            with self._waiting():
                await workflow.wait_condition(lambda: len(self._redrives) > seen)  # noqa: B023 - awaited here
            order = self._redrives[-1]
            if order.action != "skip" or may_skip:
                break
            workflow.logger.warning("redrive.refused", extra={"reason": "only a tool call can be skipped"})
        del self._parked[parked.step]
        self._publish()
        if order.action == "abort":
            self._aborted = True
            raise Aborted(parked)
        if order.action == "skip":
            raise Skipped(order.result)
        if parked.failure_class is FailureClass.UNKNOWN_OUTCOME:
            self._rulings[parked.step] = self.rulings(parked.step) + 1

    async def approval(self, call: ToolCallRef) -> Decision | None:
        """Wait for a person; None means yes, else the decision that said no."""
        self._approvals[call.call_id] = Approval(call_id=call.call_id, tool=call.name, preview=call.preview, step=call.step)
        with self._waiting():
            await workflow.wait_condition(lambda: call.call_id in self._decisions)
        decision, approved = self._decisions.pop(call.call_id)
        del self._approvals[call.call_id]
        self._publish()
        return None if approved else decision

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        if self._waits == 0:
            self._worked_s += workflow.time() - self._since
            self._since = workflow.time()
        self._waits += 1
        self._publish()
        yield  # no `finally`: an exception here ends the run, or is the worker dropping it from its cache
        self._waits -= 1
        if self._waits == 0:
            self._waited_s += workflow.time() - self._since
            self._since = workflow.time()

    def _publish(self) -> None:
        """Show a changed status; search attributes cost an event, so only a change is written."""
        self._show()
        status = self.status
        if status is self._shown:
            return
        self._shown = status
        updates: list[SearchAttributeUpdate[str]] = [AGENT_STATUS.value_set(status.value)]
        if self.parked:
            updates.append(FAILURE_CLASS.value_set(self.parked.failure_class.value))
        elif status is RunStatus.RUNNING:
            updates.append(FAILURE_CLASS.value_unset())
        workflow.upsert_search_attributes(updates)
