"""One order for many dead letters: driven by what is still open, at a rate, safe to be broken off and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from temporalio.service import RPCError, RPCStatusCode

from client import visibility
from client.backend import Backend
from client.redriving import OrderMaker, of_letter, rule_of_ended
from client.temporal import calls_named
from state import dead_letter_lists, dead_letters
from state.dead_letter_lists import DeadLetter, LetterFilter
from workflows.contracts import names
from workflows.contracts.errors import UsageError
from workflows.contracts.messages import Frozen

PAGE: Final = 200
AT_ONCE: Final = 32
PROBLEMS_TOLD: Final = 20
CARRIED_OUT_WITHIN_S: Final = 10.0
"""How long the end waits for the last orders to be carried out before it says how many are left."""
_LOOK_S: Final = 0.25
_STATES: Final = {"retry": "redriven", "skip": "skipped", "not_done": "skipped", "abort": "aborted"}


class Problem(Frozen):
    """A dead letter that an order did not settle."""

    id: str
    why: str


class BulkReport(Frozen):
    """What became of an order for many."""

    matched: int
    """Open when it began."""
    ordered: int = 0
    """Orders that Temporal has taken."""
    done: int = 0
    """Of these, carried out by now."""
    late: int = 0
    """Settled by somebody else meanwhile; nothing was changed."""
    refused: int = 0
    """The run refused the order."""
    failed: int = 0
    """The order could not be made or delivered."""
    left: int = 0
    """Delivered, but not carried out yet: no worker serves, or the order waits its turn. Nothing is lost; run it again to see."""
    problems: tuple[Problem, ...] = ()
    """The first of those that failed or were refused."""
    dry_run: bool = False


@dataclass(slots=True)
class _Tally:
    ordered: list[tuple[str, int]] = field(default_factory=list)
    late: int = 0
    problems: list[Problem] = field(default_factory=list)


class BulkOrder:
    """Orders the same for every open letter of a filter, oldest first."""

    def __init__(self, backend: Backend, maker: OrderMaker, rate_per_s: float, progress: Callable[[int], None]) -> None:
        self._backend = backend
        self._maker = maker
        self._every_s = 1 / rate_per_s
        self._progress = progress
        self._tally = _Tally()

    async def give(self, wanted: LetterFilter, matched: int) -> BulkReport:
        """Go through all that were filed before this moment; those that park again on the way are not ordered again.

        Raises:
            UnavailableError: Temporal or the database has gone away; what is ordered is ordered, the same call goes on.
        """
        began: datetime = await self._backend.database.fetchval("select clock_timestamp()")
        bounded, last = replace(wanted, state="open", filed_until=began), None
        while page := await dead_letter_lists.find(self._backend.database, bounded, limit=PAGE, after=last):
            await self._order_page(page)
            last = page[-1]
        return await self._report(matched, began)

    async def _order_page(self, page: Sequence[DeadLetter]) -> None:
        room, loop = asyncio.Semaphore(AT_ONCE), asyncio.get_running_loop()
        due = loop.time()
        try:
            async with asyncio.TaskGroup() as group:
                for letter in page:
                    await asyncio.sleep(max(0.0, due - loop.time()))
                    due = max(due + self._every_s, loop.time() - 1)  # a hiccup is caught up with for a second, no longer
                    await room.acquire()
                    group.create_task(self._order(letter)).add_done_callback(lambda _task: room.release())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _order(self, letter: DeadLetter) -> None:
        tally = self._tally
        try:
            order = await self._maker.order(of_letter(letter))
            if letter.letter < 0:
                await rule_of_ended(self._backend, letter, order)
            else:
                with calls_named(self._backend.settings):
                    await self._backend.handle(letter.run_id).signal(names.REDRIVE, order)
        except UsageError as error:
            tally.problems.append(Problem(id=letter.id, why=str(error)))
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            await self._not_there(letter, ended="completed" in error.message)
        else:
            tally.ordered.append((letter.run_id, letter.letter))
        self._progress(len(tally.ordered) + tally.late + len(tally.problems))

    async def _not_there(self, letter: DeadLetter, *, ended: bool) -> None:
        """A run that was ended from outside could settle nothing; one that Temporal does not know may be elsewhere."""
        if not ended:
            self._tally.problems.append(
                Problem(id=letter.id, why="Temporal has no such run: is it the server that the run was started on?")
            )
            return
        status = (await visibility.summary(self._backend, letter.run_id)).status.value.replace("_", " ")
        async with self._backend.database.transaction() as connection:
            withdrawn = await dead_letters.withdraw(connection, letter.run_id, self._maker.by, f"the run has ended: {status}")
        if withdrawn:
            why = f"the run has ended ({status}); `holdfast rebirth {letter.run_id}` goes on from its recorded steps"
            self._tally.problems.append(Problem(id=letter.id, why=why))
        else:
            self._tally.late += 1

    async def _report(self, matched: int, began: datetime) -> BulkReport:
        tally, wanted = self._tally, (_STATES[self._maker.action], self._maker.by)
        standing = await dead_letter_lists.standing(self._backend.database, tally.ordered)
        give_up = asyncio.get_running_loop().time() + CARRIED_OUT_WITHIN_S
        while asyncio.get_running_loop().time() < give_up:
            waiting = [key for key, (state, _) in standing.items() if state == "open"]
            if not waiting:
                break
            await asyncio.sleep(_LOOK_S)
            standing |= await dead_letter_lists.standing(self._backend.database, waiting)
        still_open = [key for key, (state, _) in standing.items() if state == "open"]
        refused = await dead_letter_lists.refusals(self._backend.database, still_open, by=self._maker.by, since=began)
        problems = [*tally.problems, *(Problem(id=letter, why=why) for letter, why in refused)]
        done = sum(found == wanted for found in standing.values())
        return BulkReport(
            matched=matched,
            ordered=len(tally.ordered),
            done=done,
            late=tally.late + len(standing) - done - len(still_open),
            refused=len(refused),
            failed=len(tally.problems),
            left=len(still_open) - len(refused),
            problems=tuple(problems[:PROBLEMS_TOLD]),
        )
