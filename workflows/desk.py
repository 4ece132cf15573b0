"""Where orders come in: each is read, judged in the order of its arrival, carried out or refused, answered, and noted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import JsonValue, ValidationError
from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError

from workflows.contracts import names, policies, stubs
from workflows.contracts.agents import Limits
from workflows.contracts.messages import Frozen
from workflows.contracts.people import (
    NOBODY,
    Answer,
    Change,
    Decision,
    Edit,
    Edited,
    EditRequest,
    Instruct,
    Interrupt,
    Order,
    Stop,
    TakeOver,
    Verdict,
)
from workflows.contracts.runs import Redrive
from workflows.course import Course
from workflows.orders import Sent, read, read_signal
from workflows.questions import REMEMBERED, Question, Ruling, RulingKind
from workflows.run_control import Letter

ACCEPTED = Verdict(outcome="accepted")


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of an order, about one call or one dead letter, or about the run."""

    verdict: Verdict
    call_id: str | None = None
    step: int | None = None
    version: int | None = None
    closes: bool = False
    letter: int | None = None


class Desk:
    """Takes orders for one run. One is judged at a time, so that the first counts."""

    def __init__(self, course: Course, end: Callable[[], None]) -> None:
        self._course = course
        self._end = end
        self._turn = asyncio.Lock()
        self._answered: dict[str, Verdict] = {}
        self.last_word: TakeOver | Stop | None = None
        """The order that ends the run."""

    async def take_signal(self, name: str, given: Sequence[RawValue]) -> None:
        """A signal, whatever was sent."""
        if name == names.WAKE:
            self._course.control.wake()
            return
        await self._take(read_signal(name, given), "signal")

    async def take_update(self, given: tuple[Any, ...]) -> Verdict:
        """An update: one object with `order`, and that order's fields beside it."""
        value = given[0] if len(given) == 1 and isinstance(given[0], dict) else {}
        fields = dict(value)
        return await self._take(read(str(fields.pop("order", "")), fields), "update")

    async def _take(self, sent: Sent, channel: Literal["signal", "update"]) -> Verdict:
        order_id = getattr(sent.order, "id", "")
        async with self._turn:
            if order_id in self._answered:  # an update that nobody answered, and the signal that was sent after it
                return self._answered[order_id]
            if sent.order is None:
                judged = [Judged(Verdict(outcome="refused", reason=sent.problem))]
            elif self._course.control.ended:
                judged = [_refused("the run has ended")]
            else:
                judged = await self._judge(sent.name, sent.order)
            for each in judged:
                self._note(sent, channel, each)
            verdict = next((each.verdict for each in judged if not each.verdict.holds), judged[0].verdict)
            if order_id:
                self._answered[order_id] = verdict
                while len(self._answered) > REMEMBERED:
                    del self._answered[next(iter(self._answered))]
        return verdict

    def _note(self, sent: Sent, channel: Literal["signal", "update"], judged: Judged) -> None:
        verdict, order = judged.verdict, sent.order
        said = getattr(order, "reason", "") or getattr(order, "message", "")
        redrive = order if isinstance(order, Redrive) else None
        if not verdict.holds:
            workflow.logger.warning("order.refused", extra={"order": sent.name, "outcome": verdict.outcome, "reason": verdict.reason})
        self._course.scribe.note(
            order=sent.name,
            channel=channel,
            by=sent.by,
            call_id=judged.call_id,
            step=judged.step,
            outcome=verdict.outcome,
            reason=": ".join(part for part in (verdict.reason, said) if part),
            given=sent.given,
            version=judged.version,
            closes=judged.closes,
            letter=judged.letter,
            action=redrive.action if redrive else "",
            result=redrive.result if redrive else "",
        )

    async def _judge(self, name: str, order: Frozen) -> list[Judged]:
        match order:
            case Decision():
                return self._decide(name, order)
            case Edit():
                return [await self._edit(order)]
            case Answer():
                return [await self._answer(order)]
            case Redrive():
                return await self._redrive(order)
            case Instruct() if order.call_id is not None:
                return [self._settle(order.call_id, order, name, Ruling("instruct", order.by, order.message))]
            case Instruct():
                self._course.messages.append(f"A person of the operator's instructs you: {order.message}")
                return [Judged(ACCEPTED)]
            case Interrupt():
                return [self._interrupt(order)]
            case Change():
                return [self._change(order)]
            case TakeOver() | Stop():
                self.last_word = order
                self._course.control.ending = True
                self._end()
                return [Judged(ACCEPTED)]
            case Order():
                return [self._hold(order.by if name == names.PAUSE else None)]
        return [_refused(f"{name} cannot be carried out here")]  # pragma: no cover - every order is named above

    def _decide(self, name: str, order: Decision) -> list[Judged]:
        questions = self._course.questions
        if order.call_id is not None:
            asked: Iterable[str] = [order.call_id]
        else:
            asked = [question.call_id for question in questions.open if question.request.kind != "question"]
        kind: RulingKind = "yes" if name == names.APPROVE else "no"
        judged = [self._settle(call_id, order, name, Ruling(kind, order.by, order.reason)) for call_id in asked]
        return judged or [_refused("nothing waits for a yes or no")]

    def _settle(self, call_id: str, order: Order, name: str, ruling: Ruling) -> Judged:
        question = self._course.questions.find(call_id)
        if question is None:
            return Judged(self._course.questions.missed(call_id, name, order.by), call_id)
        if question.request.kind == "question" and ruling.kind == "yes":
            return _about(question, Verdict(outcome="refused", reason="it is a question: send `answer`, or `reject` to leave it open"))
        problem = question.refuses(order.by)
        if problem:
            return _about(question, Verdict(outcome="refused", reason=problem))
        if ruling.kind == "yes":
            return self._vote(question, ruling, name)
        self._course.questions.settle(question, ruling, name)
        return _about(question, ACCEPTED, closes=True)

    def _vote(self, question: Question, ruling: Ruling, name: str) -> Judged:
        quorum = question.policy.quorum
        if ruling.by in question.yes:
            return _about(question, Verdict(outcome="duplicate", reason=f"{ruling.by} has said yes already"))
        question.yes[ruling.by] = None
        if len(question.yes) < quorum:
            self._course.questions.changed()
            return _about(question, Verdict(outcome="counted", reason=f"{len(question.yes)} of {quorum} have said yes"))
        self._course.questions.settle(question, ruling, name)
        return _about(question, ACCEPTED, closes=True)

    async def _edit(self, order: Edit) -> Judged:
        questions = self._course.questions
        question = questions.find(order.call_id)
        if question is None:
            return Judged(questions.missed(order.call_id, names.EDIT, order.by), order.call_id)
        if question.request.kind != "approval":
            return _about(question, Verdict(outcome="refused", reason="only a call that waits for a yes has arguments to edit"))
        problem = question.refuses(order.by)
        if problem:
            return _about(question, Verdict(outcome="refused", reason=problem))
        request = question.request
        edited = await self._check("arguments", order.arguments, order.by, request.step, request.call_id, request.model_step, request.tool)
        if edited.problem:
            return _about(question, Verdict(outcome="refused", reason=edited.problem))
        if not questions.is_open(question):  # its time ran out while the arguments were looked at
            return _about(question, questions.missed(order.call_id, names.EDIT, order.by))
        question.version, question.preview = edited.version, edited.preview or question.preview
        question.yes.clear()
        return self._vote(question, Ruling("yes", order.by, order.reason), names.EDIT)

    async def _answer(self, order: Answer) -> Judged:
        questions = self._course.questions
        waiting = [question for question in questions.open if question.request.kind == "question"]
        if order.call_id is None and len(waiting) != 1:
            asked = ", ".join(question.call_id for question in waiting)
            return _refused(f"several questions wait, name one as call_id: {asked}" if waiting else "no question waits for an answer")
        call_id = order.call_id or waiting[0].call_id
        question = questions.find(call_id)
        if question is None:
            return Judged(questions.missed(call_id, names.ANSWER, order.by), call_id)
        if question.request.kind != "question":
            return _about(question, Verdict(outcome="refused", reason="it waits for a yes or no: send `approve` or `reject`"))
        problem = question.refuses(order.by)
        if problem:
            return _about(question, Verdict(outcome="refused", reason=problem))
        request = question.request
        edited = await self._check("answer", order.answer, order.by, request.step, request.call_id, request.model_step, request.tool)
        if edited.problem:
            return _about(question, Verdict(outcome="refused", reason=edited.problem))
        if not questions.is_open(question):
            return _about(question, questions.missed(call_id, names.ANSWER, order.by))
        questions.settle(question, Ruling("answer", order.by, edited.text), names.ANSWER)
        return _about(question, ACCEPTED, closes=True)

    async def _redrive(self, order: Redrive) -> list[Judged]:
        letters = self._course.control.letters
        chosen = [letter for letter in letters if order.letter in (None, letter.parked.letter) and order.step in (None, letter.parked.step)]
        if not chosen:
            if order.letter is not None:
                late = Verdict(outcome="late", reason=f"dead letter {order.letter} is settled already, or never was")
                return [Judged(late, letter=order.letter)]
            return [_refused(f"no parked step {order.step}" if letters and order.step is not None else "the run is not parked")]
        problem = await self._redrive_problem(order, chosen)
        if problem:
            return [Judged(Verdict(outcome="refused", reason=problem), step=each.parked.step) for each in chosen]
        self._take_over_settings(order)
        judged = []
        for letter in chosen:
            letter.order = order
            call_id = letter.call.call_id if letter.call else None
            judged.append(Judged(ACCEPTED, call_id, letter.parked.step, closes=True, letter=letter.parked.letter))
        return judged

    async def _redrive_problem(self, order: Redrive, chosen: Sequence[Letter]) -> str:
        """Why a redrive cannot be carried out; edits that it brings are kept when it can."""
        if order.action in ("skip", "not_done") and not all(letter.may_skip for letter in chosen):
            return f"{order.action}: only a tool call can be passed over; retry, or abort"
        if order.arguments is not None:
            (first, *others) = chosen
            if others or first.call is None or order.action != "retry":
                return "arguments: they are for the retry of one parked tool call; name its step"
            call, step = first.call, first.parked.step
            edited = await self._check("arguments", order.arguments, order.by, step, call.call_id, first.model_step, call.name)
            if edited.problem:
                return edited.problem
        if order.input is not None:
            edited = await self._check("input", order.input, order.by, 0, "", 0, "")
            if edited.problem:
                return edited.problem
        return "" if all(letter.order is None for letter in chosen) else "it was decided meanwhile"

    def _take_over_settings(self, order: Redrive) -> None:
        course = self._course
        pinned = order.agent or course.agent
        limits = order.limits or course.agent.limits
        course.agent = pinned.model_copy(update={"limits": limits, "model": order.model or pinned.model})

    def _interrupt(self, order: Interrupt) -> Judged:
        self._course.messages.append(order.message)
        broken_off = self._course.control.interrupt() if order.now else 0
        return Judged(Verdict(outcome="accepted", reason=f"{broken_off} steps were broken off" if order.now else ""))

    def _change(self, order: Change) -> Judged:
        course = self._course
        if not order.model and not order.limits:
            return _refused("nothing to change: give model, or limits")
        try:
            limits = Limits.model_validate(course.agent.limits.model_dump() | order.limits)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            return _refused(f"limits.{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")
        course.agent = course.agent.model_copy(update={"limits": limits, "model": order.model or course.agent.model})
        course.show()
        return Judged(ACCEPTED)

    def _hold(self, by: str | None) -> Judged:
        control = self._course.control
        if (control.paused_by is None) == (by is None):
            return Judged(Verdict(outcome="duplicate", reason="it is not paused" if by is None else f"{control.paused_by} has paused it"))
        control.pause(by)
        return Judged(ACCEPTED)

    async def _check(
        self,
        kind: Literal["arguments", "answer", "input"],
        value: JsonValue,
        by: str,
        step: int,
        call_id: str,
        model_step: int,
        name: str,
    ) -> Edited:
        course = self._course
        request = EditRequest(
            run_id=course.given.run_id,
            step=step,
            call_id=call_id,
            model_step=model_step,
            kind=kind,
            name=name,
            agent=course.agent,
            tenant=course.given.tenant,
            value=value,
            by=by or NOBODY,
            note=course.scribe.numbered + 1,
        )
        try:
            return await workflow.execute_activity(
                stubs.check_edit, request, summary=f"step {step}: look at the {kind} that {by} gave", **policies.EDIT_CHECK.options()
            )
        except ActivityError:
            return Edited(problem=f"the {kind} could not be looked at just now: send it again")


def _refused(reason: str) -> Judged:
    return Judged(Verdict(outcome="refused", reason=reason))


def _about(question: Question, verdict: Verdict, *, closes: bool = False) -> Judged:
    return Judged(verdict, question.call_id, question.request.step, question.version, closes)
