"""Rebirth: a run that died goes on from its recorded steps as a new run that says so (docs/adr/0019)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from temporalio.service import RPCError, RPCStatusCode

from client import recorded, visibility
from client.backend import Backend
from client.forks import refuse_undone, walks_again
from client.launching import launch
from client.temporal import calls_named
from state import forks, runs, transcripts
from state.forks import ALL_STEPS, NewFork
from workflows.contracts.errors import RunStateError, UnknownRunError
from workflows.contracts.policies import HEARTBEAT_S
from workflows.contracts.runs import RunStatus

DEAD: Final = frozenset({RunStatus.TERMINATED, RunStatus.TIMED_OUT, RunStatus.FAILED})
QUIET_WITHIN_S: Final = 2 * HEARTBEAT_S
"""How long what a dead run still has in the air is waited for: an activity hears of its end by its heartbeat."""
_LOOK_S: Final = 0.1


async def rebirth(backend: Backend, run_id: str, *, terminate: bool, by: str) -> str:
    """Start the next life of a run that died; gives its id. `Orchestrator.rebirth` says what it raises."""
    books = await runs.books(backend.database, run_id)
    if books.parent_run_id is not None:
        raise RunStateError(f"Run {run_id} is part of run {books.parent_run_id}: let that one be reborn.")
    lives = await forks.reborn(backend.database, run_id)
    latest = lives[-1]
    status = await _status(backend, latest)
    if status is None and len(lives) > 1:  # founded, and its client died before Temporal had it
        await _launch(backend, lives[-2], latest)
        return latest
    if status is None and not await recorded.turns(backend, latest):
        raise RunStateError(f"Temporal has no run {latest}, and nothing is recorded of it: start it again, with the same idempotency key.")
    if status is not None and status not in DEAD:
        if not (terminate and status not in visibility.ENDED and await _is_stuck(backend, latest)):
            if latest != run_id:
                return latest
            raise RunStateError(_not_dead(latest, status))
        await refuse_undone(backend, latest, ALL_STEPS)
        await _terminate(backend, latest, f"its workflow cannot go on; reborn by {by}")
    await _quiet(backend, latest)
    await refuse_undone(backend, latest, ALL_STEPS)  # its sub-runs have undone what they undo when they are cancelled
    return await _next_life(backend, lives, by)


def _not_dead(run_id: str, status: RunStatus) -> str:
    words = status.value.replace("_", " ")
    if status in visibility.ENDED:
        return (
            f"Run {run_id} is {words}: only a run that was terminated, timed out or failed is reborn. `holdfast fork` starts from a step."
        )
    return (
        f"Run {run_id} is {words} and goes on: it must have been terminated, timed out or failed to be reborn. "
        "One whose workflow tasks fail again and again is ended, too, with terminate (`--terminate`)."
    )


async def _next_life(backend: Backend, lives: Sequence[str], by: str) -> str:
    old = lives[-1]
    new = f"{lives[0]}-r{len(lives)}"
    agent = (await recorded.as_started(backend, old)).agent
    await forks.found(
        backend.database,
        NewFork(
            old=old,
            new=new,
            until_step=ALL_STEPS,
            mode="rebirth",
            definition_hash=agent.definition_hash,
            cost_limit_usd=agent.limits.cost_usd,
            by=by,
        ),
    )
    await _launch(backend, old, new)
    return new


async def _launch(backend: Backend, old: str, new: str) -> None:
    given = await recorded.as_started(backend, old)
    message = await transcripts.message_at(backend.database, new, 0)
    origin = forks.told("rebirth", old)
    await launch(backend, walks_again(given, new, given.agent, origin), message.text if message else "")


async def _status(backend: Backend, run_id: str) -> RunStatus | None:
    try:
        return (await visibility.summary(backend, run_id)).status
    except UnknownRunError:
        return None


async def _is_stuck(backend: Backend, run_id: str) -> bool:
    """Whether Temporal has tried the run's present workflow task before, in vain."""
    with calls_named(backend.settings):
        described = await backend.handle(run_id).describe()
    return described.raw_description.pending_workflow_task.attempt > 1


async def _terminate(backend: Backend, run_id: str, reason: str) -> None:
    try:
        with calls_named(backend.settings):
            await backend.handle(run_id).terminate(reason=reason)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:  # else it has ended by itself
            raise


async def _quiet(backend: Backend, run_id: str) -> None:
    """Wait until nothing of a dead run goes on, for its answers to be shared: sub-runs, model calls. In the end it is ended."""
    until = time.monotonic() + QUIET_WITHIN_S
    for child in await forks.family(backend.database, run_id):
        while (status := await _status(backend, child)) is not None and status not in visibility.ENDED:
            if time.monotonic() > until:
                await _terminate(backend, child, f"run {run_id} is reborn")
            await asyncio.sleep(_LOOK_S)
    while time.monotonic() < until:
        if not await forks.in_flight(backend.database, run_id):
            return
        await asyncio.sleep(_LOOK_S)
    await forks.charge_in_flight(backend.database, run_id)
