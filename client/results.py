"""How a run ended, and its answer as the caller wants it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Final, TypeVar

from pydantic import TypeAdapter, ValidationError
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError, TerminatedError
from temporalio.exceptions import TimeoutError as TemporalTimeoutError
from temporalio.service import RPCError, RPCStatusCode

from client import visibility
from client.backend import Backend
from client.temporal import calls_named, is_outage
from state import transcripts
from workflows.contracts.errors import (
    FailureClass,
    ResultTypeError,
    RunCancelledError,
    RunFailedError,
    RunParkedError,
    UnknownRunError,
)
from workflows.contracts.runs import Parked, RunOutcome, RunStatus

T = TypeVar("T")

OUTAGE_PATIENCE_S: Final = 120.0
"""How long a waiting client lets Temporal be away before it says so: longer than a restart takes."""
_RETRY_EVERY_S: Final = 0.5
_FAILS_WITHIN_S: Final = 15.0
"""The SDK itself retries a call for ten seconds: a wait that lasted longer was a wait on a server that answered."""
PARKED_CHECK_S: Final = 0.5
PARKED_CHECK_MAX_S: Final = 5.0


async def wait_outcome(backend: Backend, run_id: str, timeout_s: float | None, *, raise_when_parked: bool = False) -> RunOutcome:
    """Wait until the run ends, over outages of Temporal too.

    Raises:
        RunFailedError: without an outcome: terminated, timed out, or a bug.
        RunCancelledError: it was cancelled.
        RunParkedError: it waits for a person, and `raise_when_parked` is set.
        UnknownRunError: no such run.
        TemporalUnavailableError: Temporal is away for longer than two minutes.
        TimeoutError: it still goes on after `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            if not raise_when_parked:
                return await _outcome(backend, run_id)
            return await _outcome_unless_parked(backend, run_id)
    except TimeoutError as error:
        if timeout_s is None:
            raise
        raise TimeoutError(f"Run {run_id} has not ended after {timeout_s:g} s; it goes on.") from error


async def answer(backend: Backend, outcome: RunOutcome) -> str:
    """The answer's text.

    Raises:
        RunFailedError: the run ended without one; has the class and the cause.
        RunCancelledError: a person stopped it.
    """
    if outcome.status is RunStatus.CANCELLED:
        raise RunCancelledError(f"Run {outcome.run_id} was stopped by a person.")
    if outcome.failure is not None or outcome.answer_step is None:
        raise failed(outcome.run_id, outcome.failure)
    message = await transcripts.message_at(backend.database, outcome.run_id, outcome.answer_step)
    if message is None:
        raise UnknownRunError(f"The answer of run {outcome.run_id} is not in this database: is DATABASE_URL the one that its worker uses?")
    return message.text


def parse(run_id: str, text: str, wanted: type[T]) -> T:
    """The answer as a value of the type.

    Raises:
        ResultTypeError: it does not fit; names the first place, not the content.
    """
    if wanted is str:
        return text  # type: ignore[return-value]  # T is str here
    try:
        return TypeAdapter(wanted).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the answer"
        name = getattr(wanted, "__name__", str(wanted))
        raise ResultTypeError(
            f"The answer of run {run_id} is no {name}: {where}: {first['msg']}. "
            "Give the agent an output_schema, so that its model is held to the shape."
        ) from None


def failed(run_id: str, parked: Parked | None) -> RunFailedError:
    """The error for a run that gave up."""
    if parked is None:
        return RunFailedError(f"Run {run_id} ended without an answer.")
    return RunFailedError(
        f"Run {run_id} failed at step {parked.step}, {parked.what} ({parked.failure_class.value}): {parked.cause}",
        failure_class=parked.failure_class,
    )


async def _outcome(backend: Backend, run_id: str) -> RunOutcome:
    away_since: float | None = None
    while True:
        asked = time.monotonic()
        try:
            return await backend.handle(run_id).result()
        except WorkflowFailureError as error:
            return _ended(run_id, error)
        except RPCError as error:
            if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
                raise UnknownRunError(f"Temporal has no run {run_id!r}: `holdfast runs` lists them.") from error
            now = time.monotonic()
            away_since = asked if away_since is None or now - asked > _FAILS_WITHIN_S else away_since
            if not is_outage(error) or now - away_since > OUTAGE_PATIENCE_S:
                with calls_named(backend.settings):
                    raise
        await asyncio.sleep(_RETRY_EVERY_S)


async def _outcome_unless_parked(backend: Backend, run_id: str) -> RunOutcome:
    ended = asyncio.create_task(_outcome(backend, run_id))
    parked = asyncio.create_task(_parked(backend, run_id))
    try:
        await asyncio.wait({ended, parked}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await parked
        return await ended
    finally:
        for task in (ended, parked):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _parked(backend: Backend, run_id: str) -> None:
    """Return when the run has ended; raise when it waits for a person."""
    pause_s = PARKED_CHECK_S
    while True:
        found = await visibility.summary(backend, run_id)
        if found.status is RunStatus.PARKED:
            why = f" ({found.failure_class.value})" if found.failure_class else ""
            raise RunParkedError(f"Run {run_id} is parked{why} and waits for a person: `holdfast show {run_id}` says why.")
        if found.status is RunStatus.WAITING_APPROVAL:
            raise RunParkedError(f"Run {run_id} waits for an approval: `holdfast approve {run_id}` or `holdfast reject {run_id}`.")
        if found.status in visibility.ENDED:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(PARKED_CHECK_MAX_S, pause_s * 1.5)


def _ended(run_id: str, error: WorkflowFailureError) -> RunOutcome:
    """The outcome that a failed run left in its failure; any other end is an error."""
    cause = error.cause
    if isinstance(cause, CancelledError):
        raise RunCancelledError(f"Run {run_id} was cancelled.") from error
    if isinstance(cause, TerminatedError):
        raise RunFailedError(f"Run {run_id} was terminated: {cause.message}.") from error
    if isinstance(cause, TemporalTimeoutError):
        raise RunFailedError(f"Run {run_id} timed out: Temporal ended it after its execution time-out.") from error
    if isinstance(cause, ApplicationError) and (outcome := _outcome_in(cause)):
        return outcome
    raise RunFailedError(f"Run {run_id} failed: {cause}", failure_class=FailureClass.CODE) from error


def _outcome_in(cause: ApplicationError) -> RunOutcome | None:
    details: Any = cause.details[0] if cause.details else None
    try:
        return RunOutcome.model_validate(details)
    except ValidationError:
        return None
