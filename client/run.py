"""One run, as its caller holds it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from pydantic import ValidationError
from temporalio.service import RPCError, RPCStatusCode

from client import events, reports, results, visibility
from client.backend import Backend
from client.events import RunEvent
from client.reports import RunReport
from client.steps import StepReport
from client.temporal import calls_named
from client.visibility import RunSummary
from workflows.contracts import names
from workflows.contracts.agents import Limits
from workflows.contracts.errors import InvalidInputError, RunStateError, UnknownRunError
from workflows.contracts.people import Decision
from workflows.contracts.redaction import redact
from workflows.contracts.runs import Redrive, RunOutcome, RunStatus, RunView

T = TypeVar("T")

DEFAULT_BY = "client"


class RedriveOptions(TypedDict, total=False):
    """How a parked run goes on."""

    action: Literal["retry", "skip", "abort"]
    """`retry` the step (as it is when left out), `skip` it (a tool call only), or `abort` the run."""
    limits: Limits | None
    """New limits, where the old ones were reached."""
    model: str | None
    """Another model or tier for the rest of the run."""
    result: str
    """For `skip`: what the model is told the tool call gave."""
    by: str
    """Who says so."""


class Run:
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

    async def approve(self, call_id: str | None = None, *, reason: str = "", by: str = DEFAULT_BY) -> None:
        """Say yes to one waiting tool call, or to all that wait.

        Raises:
            RunStateError: nothing waits for a yes or no, or not this call.
            UnknownRunError: no such run.
        """
        await self._decide(names.APPROVE, Decision(call_id=call_id, reason=redact(reason), by=by))

    async def reject(self, call_id: str | None = None, *, reason: str = "", by: str = DEFAULT_BY) -> None:
        """Say no to one waiting tool call, or to all that wait; the reason is told to the model.

        Raises:
            RunStateError: nothing waits for a yes or no, or not this call.
            UnknownRunError: no such run.
        """
        await self._decide(names.REJECT, Decision(call_id=call_id, reason=redact(reason), by=by))

    async def redrive(self, **options: Unpack[RedriveOptions]) -> None:
        """Let a parked run go on from the step it is parked at: `action`, `limits`, `model`, `result`, `by`.

        Raises:
            RunStateError: it is not parked.
            UnknownRunError: no such run.
        """
        status = await self.status()
        if status is not RunStatus.PARKED:
            raise RunStateError(f"Run {self.id} is not parked, it is {_words(status)}: there is nothing to redrive.")
        try:
            order = Redrive.model_validate({"by": DEFAULT_BY, **options})
        except ValidationError as error:
            raise InvalidInputError(f"This is no order for a parked run: {error.errors()[0]['msg']}.") from error
        with self._named():
            await self._backend.handle(self.id).signal(names.REDRIVE, order.model_copy(update={"result": redact(order.result)}))

    async def _decide(self, signal: Any, decision: Decision) -> None:
        status = await self.status()
        if status not in (RunStatus.WAITING_APPROVAL, RunStatus.PARKED):
            raise RunStateError(f"Run {self.id} waits for no approval: it is {_words(status)}.")
        if decision.call_id is not None:
            waiting = [approval.call_id for approval in (await self.view()).approvals]
            if decision.call_id not in waiting:
                raise RunStateError(
                    f"No call {decision.call_id!r} of run {self.id} waits for an approval; waiting: {', '.join(waiting) or 'none'}."
                )
        with self._named():
            await self._backend.handle(self.id).signal(signal, decision)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            with calls_named(self._backend.settings):
                yield
        except RPCError as error:
            if error.status == RPCStatusCode.NOT_FOUND and "completed" in error.message:
                raise RunStateError(f"Run {self.id} has ended already.") from error
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                raise UnknownRunError(f"Temporal has no run {self.id!r}: `holdfast runs` lists them.") from error
            raise


def _words(status: RunStatus) -> str:
    return status.value.replace("_", " ")
