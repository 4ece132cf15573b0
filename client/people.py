"""The inbox: what waits for people over all runs, deciding on many at once, and who decided what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict, Unpack

from client import orders, visibility
from client.backend import Backend
from client.orders import DEFAULT_BY
from state import inbox, people
from state.inbox import Decided, Waiting, Wanted
from workflows.contracts import names
from workflows.contracts.errors import InvalidInputError, RunStateError, UnavailableError, UnknownRunError

LIST_LIMIT: Final = 100
SIDE_BY_SIDE: Final = 20
RATE_PER_S: Final = 20.0

RISKS: Final = ("low", "medium", "high")


class Filter(TypedDict, total=False):
    """Which questions; what is left out does not choose."""

    run: str
    agent: str
    tenant: str
    user: str
    tool: str
    risk: str
    who: str
    """Only what this person may decide."""
    older_than: timedelta


@dataclass(frozen=True, slots=True)
class Bulk:
    """What became of an order that was given to many."""

    held: int
    """Carried out, or counted."""
    sent: int
    """Delivered, and not acknowledged yet."""
    refused: tuple[str, ...]
    """RUN CALL: why, for each that was refused or came too late."""


class Inbox:
    """`Orchestrator.inbox`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(self, *, limit: int = LIST_LIMIT, **chosen: Unpack[Filter]) -> tuple[Waiting, ...]:
        """What waits for a person, the oldest first. What runs have left that were ended from outside is taken out.

        Args:
            limit: how many at most.
            chosen: run, agent, tenant, user, tool, risk, who (may decide), older_than.

        Raises:
            InvalidInputError: there is no such risk.
        """
        found = await inbox.questions(self._backend.database, _wanted(chosen, limit=max(1, limit)))
        ended = await self._ended({each.run_id for each in found})
        return tuple(each for each in found if each.run_id not in ended)

    async def get(self, run_id: str, call_id: str | None = None) -> Waiting:
        """One question, also one that is settled; without `call_id` the run's only one that waits.

        Raises:
            UnknownRunError: the run has asked nobody, or not about this call.
            InvalidInputError: several wait, and none is named.
        """
        of_run = Wanted(run_id=run_id, call_id=call_id, state=None if call_id else "open")
        found = await inbox.questions(self._backend.database, of_run)
        if not found:
            about = f" about call {call_id}" if call_id else ""
            raise UnknownRunError(f"Run {run_id} waits for nobody{about}: `holdfast approvals` lists what waits.")
        if call_id is None and len(found) > 1:
            raise InvalidInputError(f"Several calls of run {run_id} wait, name one: {', '.join(each.call_id for each in found)}.")
        return found[-1]

    async def count(self, **chosen: Unpack[Filter]) -> int:
        """How many yes or no questions wait; answers that agents wait for are not among them."""
        return sum([await inbox.count(self._backend.database, each) for each in _decidable(_wanted(chosen))])

    async def decide(
        self,
        order: Literal["approve", "reject"],
        *,
        by: str = DEFAULT_BY,
        reason: str = "",
        rate_per_s: float = RATE_PER_S,
        **chosen: Unpack[Filter],
    ) -> Bulk:
        """Say yes, or no, to all that is chosen, at most so many a second. Broken off and given again, it goes on with what is left.

        Args:
            order: approve or reject.
            by: who says so.
            reason: why; with reject the model is told.
            rate_per_s: how many a second at most.
            chosen: as for `list`.

        Raises:
            InvalidInputError: there is no such risk, or no such rate.
            UnavailableError: Temporal or the database does not answer.
        """
        if not rate_per_s > 0:
            raise InvalidInputError(f"rate must be above 0 a second; it is {rate_per_s:g}.")
        name = {"approve": names.APPROVE, "reject": names.REJECT}[order]
        given: list[asyncio.Task[str]] = []
        broken: list[BaseException] = []

        def ended(task: asyncio.Task[str]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                broken.append(error)

        async for task in self._paced(name, {"by": by, "reason": reason}, _wanted(chosen), rate_per_s):
            task.add_done_callback(ended)
            given.append(task)
            if broken:
                break
        results = [result for result in await asyncio.gather(*given, return_exceptions=True) if isinstance(result, str)]
        if broken:
            raise broken[0]
        return Bulk(
            held=results.count("held"),
            sent=results.count("sent"),
            refused=tuple(result for result in results if result not in ("held", "sent")),
        )

    async def decisions(self, run_id: str) -> tuple[Decided, ...]:
        """The audit record of a run: every order and time-out, who, when, from where, on which version, and what became of it."""
        return tuple(await inbox.decisions(self._backend.database, run_id))

    async def _paced(self, name: str, fields: dict[str, Any], wanted: Wanted, rate_per_s: float) -> AsyncIterator[asyncio.Task[str]]:
        loop = asyncio.get_running_loop()
        room, next_at = asyncio.Semaphore(SIDE_BY_SIDE), loop.time()
        for kind in _decidable(wanted):
            async for each in self._pages(kind):
                await asyncio.sleep(next_at - loop.time())
                next_at = max(next_at, loop.time() - 1 / rate_per_s) + 1 / rate_per_s
                await room.acquire()
                task = asyncio.create_task(self._decide_one(name, fields, each))
                task.add_done_callback(lambda _task: room.release())
                yield task

    async def _pages(self, wanted: Wanted) -> AsyncIterator[Waiting]:
        while found := await inbox.questions(self._backend.database, wanted):
            for each in found:
                yield each
            last = found[-1]
            wanted = replace(wanted, after=(last.since, last.run_id, last.step, last.asked))

    async def _decide_one(self, name: str, fields: dict[str, Any], each: Waiting) -> str:
        try:
            verdict = await orders.give(self._backend, each.run_id, name, {**fields, "call_id": each.call_id})
        except (RunStateError, UnknownRunError) as error:
            return f"{each.run_id} {each.call_id}: {error}"
        return "sent" if verdict.outcome == "sent" else "held"

    async def _ended(self, run_ids: set[str]) -> set[str]:
        """The runs that have ended, as one does that is terminated from outside: nobody has withdrawn what it asked."""
        room = asyncio.Semaphore(SIDE_BY_SIDE)

        async def has_ended(run_id: str) -> bool:
            async with room:
                try:
                    return (await visibility.summary(self._backend, run_id)).status in visibility.ENDED
                except UnknownRunError:
                    return True

        names_of = sorted(run_ids)
        with contextlib.suppress(UnavailableError):
            ended = {name for name, over in zip(names_of, await asyncio.gather(*map(has_ended, names_of)), strict=True) if over}
            for run_id in ended:
                async with self._backend.database.transaction() as connection:
                    await people.withdraw(connection, run_id, "client", "the run has ended")
            return ended
        return set()


def _decidable(wanted: Wanted) -> tuple[Wanted, ...]:
    """What a yes or no can be said to: a question of the agent's wants an answer."""
    return replace(wanted, kind="approval"), replace(wanted, kind="result")


def _wanted(chosen: Filter, limit: int = LIST_LIMIT) -> Wanted:
    risk, older_than = chosen.get("risk"), chosen.get("older_than")
    if risk is not None and risk not in RISKS:
        raise InvalidInputError(f"There is no risk {risk!r}; there are {', '.join(RISKS)}.")
    return Wanted(
        run_id=chosen.get("run"),
        agent=chosen.get("agent"),
        tenant=chosen.get("tenant"),
        user=chosen.get("user"),
        tool=chosen.get("tool"),
        risk=risk,
        who=chosen.get("who"),
        older_than_s=older_than.total_seconds() if older_than is not None else None,
        limit=limit,
    )
