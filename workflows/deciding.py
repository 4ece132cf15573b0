"""Decisions on what waits for people: a yes, a no, other arguments, an answer, an instruction; who may, and how many must."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from temporalio import workflow

from workflows.contracts import names
from workflows.contracts.people import Answer, Decision, Edit, Instruct, Order, Verdict
from workflows.course import Course
from workflows.edits import check
from workflows.judged import ACCEPTED, Judged, refused
from workflows.questions import Question, Ruling, RulingKind

LOOKED_UP_WITHIN_S = 10.0
"""How long an order waits for the look-up of who may decide."""


class Deciding:
    """Judges the orders that are about a question."""

    def __init__(self, course: Course) -> None:
        self._course = course

    async def decide(self, name: str, order: Decision) -> list[Judged]:
        """A yes or no to one call, or to all that wait."""
        questions = self._course.questions
        if order.call_id is not None:
            asked: Iterable[str] = [order.call_id]
        else:
            asked = [question.call_id for question in questions.open if question.request.kind != "question"]
        kind: RulingKind = "yes" if name == names.APPROVE else "no"
        judged = [await self._settle(call_id, order, name, Ruling(kind, order.by, order.reason)) for call_id in asked]
        return judged or [refused("nothing waits for a yes or no")]

    async def instruct(self, order: Instruct, call_id: str) -> Judged:
        """What is to be done in place of a waiting call."""
        return await self._settle(call_id, order, names.INSTRUCT, Ruling("instruct", order.by, order.message))

    async def _settle(self, call_id: str, order: Order, name: str, ruling: Ruling) -> Judged:
        question = self._course.questions.find(call_id)
        if question is None:
            return Judged(self._course.questions.missed(call_id, name, order.by), call_id)
        if question.request.kind == "question" and ruling.kind == "yes":
            return _about(question, Verdict(outcome="refused", reason="it is a question: send `answer`, or `reject` to leave it open"))
        problem = await self._refuses(question, order.by)
        if problem:
            return _about(question, Verdict(outcome="refused", reason=problem))
        looked_at = order.version if isinstance(order, Decision) else None
        if looked_at not in (None, question.version):
            problem = f"its arguments were changed meanwhile: version {question.version} stands, not {looked_at}"
            return _about(question, Verdict(outcome="refused", reason=problem))
        if not self._course.questions.is_open(question):
            return _about(question, self._course.questions.missed(call_id, name, order.by))
        if ruling.kind == "yes":
            return self._vote(question, ruling, name)
        self._course.questions.settle(question, ruling, name)
        return _about(question, ACCEPTED, closes=True)

    async def _refuses(self, question: Question, by: str) -> str:
        """Why this person may not decide. A signal is answered by nobody: one that comes with its question waits for the look-up."""
        if question.allowed is None and question.named:
            with contextlib.suppress(TimeoutError):
                await workflow.wait_condition(lambda: question.allowed is not None, timeout=LOOKED_UP_WITHIN_S)
        elif any(name.startswith("@") for name in question.named):
            await self._course.questions.look_up(question)
        return question.refuses(by)

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

    async def edit(self, order: Edit) -> Judged:
        """Other arguments, and a yes to them."""
        questions = self._course.questions
        question = questions.find(order.call_id)
        if question is None:
            return Judged(questions.missed(order.call_id, names.EDIT, order.by), order.call_id)
        if question.request.kind != "approval":
            return _about(question, Verdict(outcome="refused", reason="only a call that waits for a yes has arguments to edit"))
        problem = await self._refuses(question, order.by)
        if problem:
            return _about(question, Verdict(outcome="refused", reason=problem))
        request = question.request
        edited = await check(self._course, "arguments", order.arguments, order.by, request)
        if edited.problem:
            return _about(question, Verdict(outcome="refused", reason=edited.problem))
        if not questions.is_open(question):  # its time ran out while the arguments were looked at
            return _about(question, questions.missed(order.call_id, names.EDIT, order.by))
        question.version, question.preview = edited.version, edited.preview or question.preview
        question.yes.clear()
        return self._vote(question, Ruling("yes", order.by, order.reason), names.EDIT)

    async def answer(self, order: Answer) -> Judged:
        """What a person says to the agent's own question."""
        questions = self._course.questions
        waiting = [question for question in questions.open if question.request.kind == "question"]
        if order.call_id is None and len(waiting) != 1:
            asked = ", ".join(question.call_id for question in waiting)
            return refused(f"several questions wait, name one as call_id: {asked}" if waiting else "no question waits for an answer")
        call_id = order.call_id or waiting[0].call_id
        question = questions.find(call_id)
        if question is None:
            return Judged(questions.missed(call_id, names.ANSWER, order.by), call_id)
        if question.request.kind != "question":
            return _about(question, Verdict(outcome="refused", reason="it waits for a yes or no: send `approve` or `reject`"))
        problem = await self._refuses(question, order.by)
        if problem:
            return _about(question, Verdict(outcome="refused", reason=problem))
        request = question.request
        edited = await check(self._course, "answer", order.answer, order.by, request)
        if edited.problem:
            return _about(question, Verdict(outcome="refused", reason=edited.problem))
        if not questions.is_open(question):
            return _about(question, questions.missed(call_id, names.ANSWER, order.by))
        questions.settle(question, Ruling("answer", order.by, edited.text), names.ANSWER)
        return _about(question, ACCEPTED, closes=True)


def _about(question: Question, verdict: Verdict, *, closes: bool = False) -> Judged:
    return Judged(verdict, question.call_id, question.request.step, question.version, closes)
