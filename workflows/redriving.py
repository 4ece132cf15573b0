"""Redrives: how parked steps go on, and with which changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflows.contracts.people import Verdict
from workflows.contracts.runs import Redrive
from workflows.course import Course
from workflows.edits import check
from workflows.judged import ACCEPTED, Judged, refused
from workflows.run_control import Letter


@dataclass(frozen=True, slots=True)
class _Parked:
    """The call of a dead letter, as an edit is about it."""

    step: int
    call_id: str
    model_step: int
    tool: str


async def redrive(course: Course, order: Redrive) -> list[Judged]:
    """Judge an order for parked steps and, when it can be carried out, let them go on."""
    letters = course.control.letters
    chosen = [letter for letter in letters if order.letter in (None, letter.parked.letter) and order.step in (None, letter.parked.step)]
    if not chosen:
        if order.letter is not None:
            late = Verdict(outcome="late", reason=f"dead letter {order.letter} is settled already, or never was")
            return [Judged(late, letter=order.letter)]
        return [refused(f"no parked step {order.step}" if letters and order.step is not None else "the run is not parked")]
    problem = await _problem(course, order, chosen)
    if problem:
        return [Judged(Verdict(outcome="refused", reason=problem), step=each.parked.step) for each in chosen]
    pinned, limits = order.agent or course.agent, order.limits or course.agent.limits
    course.agent = pinned.model_copy(update={"limits": limits, "model": order.model or pinned.model})
    judged = []
    for letter in chosen:
        letter.order = order
        call_id = letter.call.call_id if letter.call else None
        judged.append(Judged(ACCEPTED, call_id, letter.parked.step, closes=True, letter=letter.parked.letter))
    return judged


async def _problem(course: Course, order: Redrive, chosen: Sequence[Letter]) -> str:
    """Why it cannot be carried out; edits that it brings are kept when it can."""
    if order.action in ("skip", "not_done") and not all(letter.may_skip for letter in chosen):
        return f"{order.action}: only a tool call can be passed over; retry, or abort"
    if order.arguments is not None:
        (first, *others) = chosen
        if others or first.call is None or order.action != "retry":
            return "arguments: they are for the retry of one parked tool call; name its step"
        about = _Parked(first.parked.step, first.call.call_id, first.model_step, first.call.name)
        edited = await check(course, "arguments", order.arguments, order.by, about)
        if edited.problem:
            return edited.problem
    if order.input is not None:
        edited = await check(course, "input", order.input, order.by, None)
        if edited.problem:
            return edited.problem
    return "" if all(letter.order is None for letter in chosen) else "it was decided meanwhile"
