"""One run, as its caller holds it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import TypeVar, Unpack, overload

from client import events, orders, redriving, reports, results, visibility
from client.backend import Backend
from client.events import RunEvent
from client.orders import RunOrders
from client.redriving import RedriveOptions
from client.reports import RunReport
from client.steps import StepReport
from client.visibility import RunSummary
from workflows.contracts.errors import RunStateError
from workflows.contracts.people import Verdict
from workflows.contracts.runs import RunOutcome, RunStatus, RunView

T = TypeVar("T")


class Run(RunOrders):
    """A handle of one run. It holds no state: every call asks Temporal and the database afresh."""

    def __init__(self, run_id: str, backend: Backend) -> None:
        self.id = run_id
        self._backend = backend

    def __repr__(self) -> str:
        return f"<run {self.id}>"

    @property
    def url(self) -> str | None:
        """The run's page in the Temporal Web UI, where one is known."""
        return self._backend.settings.run_url(self.id)

    @overload
    async def result(self, as_: None = None, *, timeout_s: float | None = None, raise_when_parked: bool = False) -> str: ...
    @overload
    async def result(self, as_: type[T], *, timeout_s: float | None = None, raise_when_parked: bool = False) -> T: ...
    async def result(self, as_: type[T] | None = None, *, timeout_s: float | None = None, raise_when_parked: bool = False) -> str | T:
        """Wait for the answer: its text, or a value of the type `as_` read from it.

        A run that waits for a person is waited for, too, unless `raise_when_parked` is set; an outage of Temporal is waited out
        for two minutes.

        Raises:
            RunFailedError: the run failed, was terminated or timed out; has the class and the cause.
            RunCancelledError: it was cancelled.
            RunParkedError: it waits for a person, and `raise_when_parked` is set.
            ResultTypeError: the answer is no `as_`.
            UnknownRunError: Temporal has no such run.
            UnavailableError: Temporal or the database does not answer.
            TimeoutError: the run still goes on after `timeout_s`.
        """
        outcome = await results.wait_outcome(self._backend, self.id, timeout_s, raise_when_parked=raise_when_parked)
        text = await results.answer(self._backend, outcome)
        return text if as_ is None else results.parse(self.id, text, as_)

    async def outcome(self, *, timeout_s: float | None = None, raise_when_parked: bool = False) -> RunOutcome:
        """Wait for the end: what the run used, and its failure if it gave up, which is returned here and not raised.

        Raises as `result` does for every other end.
        """
        return await results.wait_outcome(self._backend, self.id, timeout_s, raise_when_parked=raise_when_parked)

    async def summary(self) -> RunSummary:
        """One line of it: status, agent, user, when.

        Raises:
            UnknownRunError: Temporal has no such run (any more).
        """
        return await visibility.summary(self._backend, self.id)

    async def status(self) -> RunStatus:
        """Where it stands.

        Raises:
            UnknownRunError: Temporal has no such run (any more).
        """
        return (await self.summary()).status

    async def view(self) -> RunView:
        """What it does at this moment, which approvals it waits for and why it is parked, told by the run itself.

        Raises:
            UnavailableError: no worker answers.
        """
        with self._named():
            return await reports.view(self._backend, self.id)

    async def show(self) -> RunReport:
        """Everything there is to tell of it: every step with its cost, sub-runs, totals, links.

        Raises:
            UnknownRunError: no such run.
        """
        return await reports.report(self._backend, self.id)

    async def steps(self) -> tuple[StepReport, ...]:
        """Its steps so far."""
        return (await self.show()).steps

    def events(self, after: str | None = None) -> AsyncIterator[RunEvent]:
        """Its steps and changes of status as they come, until it ends.

        Args:
            after: the `cursor` of an event: what came up to it is left out, whoever read it.

        Raises:
            UnknownRunError: no such run.
            InvalidInputError: `after` is no cursor.
        """
        return events.follow(self._backend, self.id, after)

    async def cancel(self) -> None:
        """Ask it to stop; a running activity is told within seconds, sub-runs with it. Its end is what `result` waits for.

        Raises:
            RunStateError: it has ended already.
            UnknownRunError: no such run.
        """
        status = await self.status()
        if status in visibility.ENDED:
            raise RunStateError(f"Run {self.id} has ended already: it is {_words(status)}.")
        with self._named():
            await self._backend.handle(self.id).cancel()

    async def redrive(self, **options: Unpack[RedriveOptions]) -> Verdict:
        """Let a parked run go on from the step it is parked at, or all such steps; `RedriveOptions` says what may be changed.

        Raises:
            RunStateError: it is not parked, or refuses the order; says why.
            UnknownRunError: no such run.
            ArgumentsError: the arguments do not fit the tool's schema.
            InvalidInputError: the order cannot be used; names the field.
        """
        return await redriving.redrive(self._backend, self.id, None, options)

    def _named(self) -> contextlib.AbstractContextManager[None]:
        return orders.named(self._backend, self.id)


def _words(status: RunStatus) -> str:
    return status.value.replace("_", " ")
