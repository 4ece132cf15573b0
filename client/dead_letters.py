"""Steps that cannot go on: which there are, what each of them is, and letting them go on, one by one or many at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypedDict, Unpack

from client import redriving
from client.backend import Backend
from client.letter_orders import BulkOrder, BulkReport
from client.orders import DEFAULT_BY
from client.redriving import OrderMaker, RedriveOptions
from state import dead_letter_lists, runs
from state.dead_letter_lists import DeadLetter, LetterFilter, State
from workflows.contracts.errors import FailureClass, InvalidInputError
from workflows.contracts.people import Verdict

LIST_LIMIT: Final = 50
CONFIRM_ABOVE: Final = 50
"""An order for more than these wants to be confirmed."""
RATE_PER_S: Final = 20.0
RATE_AT_MOST: Final = 1_000.0
_STATES: Final = ("open", "redriven", "skipped", "aborted", "withdrawn")


class LetterOptions(TypedDict, total=False):
    """Which dead letters; what is left out leaves a choice open. Those that are open, unless `state` says otherwise."""

    state: State | None
    """open, redriven, skipped, aborted, withdrawn; None for all."""
    run_id: str | None
    failure_class: FailureClass | str | None
    agent: str | None
    tenant: str | None
    model: str | None
    """A tier, or a model with or without its provider: the agent's, or one that the step has tried."""
    user: str | None
    tool: str | None
    text: str | None
    """What the cause, or what lay behind it, says."""
    older_than_s: float | None
    younger_than_s: float | None


class DeadLetters:
    """`Orchestrator.dead_letters`. The database lists them; the runs themselves judge what is ordered."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(self, *, limit: int = LIST_LIMIT, **wanted: Unpack[LetterOptions]) -> tuple[DeadLetter, ...]:
        """Those that fit all that is given, oldest first.

        Raises:
            InvalidInputError: there is no such class or state, or a time is no number of seconds.
        """
        return tuple(await dead_letter_lists.find(self._backend.database, _filter(wanted), limit=max(1, limit)))

    async def count(self, **wanted: Unpack[LetterOptions]) -> int:
        """How many fit.

        Raises:
            InvalidInputError: as `list` does.
        """
        return await dead_letter_lists.count(self._backend.database, _filter(wanted))

    async def show(self, letter_id: str) -> DeadLetter:
        """One of them, whole: its input, what was tried, what lay behind its cause.

        Args:
            letter_id: RUN:LETTER, or RUN alone for the one that is open, or else the last one.

        Raises:
            UnknownRunError: no such run.
            InvalidInputError: the run has no such letter, or several are open.
        """
        run_id, number = parse_id(letter_id)
        if number is not None:
            found = await dead_letter_lists.get(self._backend.database, run_id, number)
            if found is not None:
                return found
        letters = await dead_letter_lists.find(self._backend.database, LetterFilter(state=None, run_id=run_id), limit=1_000)
        waiting = [letter for letter in letters if letter.state == "open"]
        if number is None and len(waiting) > 1:
            raise InvalidInputError(f"Run {run_id} has several: name one of {', '.join(letter.id for letter in waiting)}.")
        if number is not None or not letters:
            await runs.books(self._backend.database, run_id)
            known = ", ".join(letter.id for letter in letters) or "none"
            raise InvalidInputError(f"There is no dead letter {letter_id!r}; of this run there are {known}.")
        return waiting[0] if waiting else letters[-1]

    async def redrive(self, letter_id: str, **options: Unpack[RedriveOptions]) -> Verdict:
        """Let one go on: from the step that failed, with what is changed; what was paid and done before is kept.

        Args:
            letter_id: RUN:LETTER, or RUN alone for every parked step of the run.
            options: what to do and what to change; see `RedriveOptions`.

        Raises:
            RunStateError: it is not parked, or the run refuses the order; says why.
            UnknownRunError: no such run.
            ArgumentsError: the arguments do not fit the tool's schema.
            InvalidInputError: the order cannot be used; names the field.
        """
        run_id, number = parse_id(letter_id)
        return await redriving.redrive(self._backend, run_id, number, options)

    async def skip(self, letter_id: str, result: str, *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Give a parked tool call a result, and let the run go on with it; raises as `redrive` does."""
        return await self.redrive(letter_id, action="skip", result=result, reason=reason, by=by)

    async def not_done(self, letter_id: str, *, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """Say that an effect of unknown outcome was not done: the model is told, the ledger too; raises as `redrive` does."""
        return await self.redrive(letter_id, action="not_done", reason=reason, by=by)

    async def abort(self, letter_id: str, *, undo: bool = False, reason: str = "", by: str = DEFAULT_BY) -> Verdict:
        """End the run as failed; with `undo` what its tools did is undone first, the last first. Raises as `redrive` does."""
        return await self.redrive(letter_id, action="abort", undo=undo, reason=reason, by=by)

    async def bulk(
        self,
        wanted: LetterOptions,
        *,
        rate_per_s: float = RATE_PER_S,
        confirmed: bool = False,
        dry_run: bool = False,
        progress: Callable[[int], None] = lambda _done: None,
        **options: Unpack[RedriveOptions],
    ) -> BulkReport:
        """Order the same for all open ones that fit, oldest first. Broken off and started again it gives none twice and forgets none.

        Args:
            wanted: which.
            rate_per_s: how many orders a second at most.
            confirmed: needed when more than 50 fit.
            dry_run: only count and check.
            progress: told how many were gone through.
            options: what to do and what to change; arguments are for one letter only.

        Raises:
            InvalidInputError: a field cannot be used, or more than 50 fit and it is not confirmed.
            UnavailableError: Temporal or the database has gone away; the same call goes on.
        """
        if not 0 < rate_per_s <= RATE_AT_MOST:
            raise InvalidInputError(f"rate_per_s must be above 0 and at most {RATE_AT_MOST:g}; it is {rate_per_s:g}.")
        if wanted.get("state", "open") != "open":
            raise InvalidInputError("state: only open dead letters can be ordered to go on; leave it out.")
        maker = OrderMaker(self._backend, options)
        chosen = _filter(wanted)
        matched = await dead_letter_lists.count(self._backend.database, chosen)
        if matched > 1 and options.get("arguments") is not None:
            raise InvalidInputError(f"arguments are for one tool call, and {matched} dead letters fit: name one by its id.")
        if dry_run or matched == 0:
            return BulkReport(matched=matched, dry_run=dry_run)
        if matched > CONFIRM_ABOVE and not confirmed:
            raise InvalidInputError(
                f"{matched:,} dead letters fit, more than {CONFIRM_ABOVE}: narrow the filter, or confirm it (--yes, confirmed=True)."
            )
        return await BulkOrder(self._backend, maker, rate_per_s, progress).give(chosen, matched)


def parse_id(letter_id: str) -> tuple[str, int | None]:
    """RUN or RUN:LETTER.

    Raises:
        InvalidInputError: it is neither.
    """
    run_id, colon, number = letter_id.partition(":")
    if not run_id or (colon and not re.fullmatch(r"-?[0-9]{1,9}", number)):
        raise InvalidInputError(f"{letter_id[:80]!r} names no dead letter: write RUN or RUN:LETTER, as `holdfast dead-letters list` does.")
    return run_id, int(number) if colon else None


def _filter(wanted: LetterOptions) -> LetterFilter:
    chosen = replace(LetterFilter(), **wanted)
    if chosen.state is not None and chosen.state not in _STATES:
        raise InvalidInputError(f"There is no state {chosen.state!r}; there are {', '.join(_STATES)}.")
    if chosen.failure_class is not None and chosen.failure_class not in set(FailureClass):
        raise InvalidInputError(f"There is no failure class {chosen.failure_class!r}; there are {', '.join(FailureClass)}.")
    for name in ("older_than_s", "younger_than_s"):
        value = getattr(chosen, name)
        if value is not None and not 0 <= value <= 1e9:
            raise InvalidInputError(f"{name} must be seconds, from 0 to 1,000,000,000; it is {value!r}.")
    return chosen
