"""What a run asks people: open questions side by side, who may answer, how many must, and what happens when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows.contracts import policies, stubs
from workflows.contracts.agents import ApprovalPolicy
from workflows.contracts.people import NOBODY, AskRequest, Verdict
from workflows.contracts.runs import Approval
from workflows.contracts.steps import ToolCallRef
from workflows.run_control import RunControl
from workflows.scribe import Scribe
from workflows.work_clock import WorkClock

REMEMBERED: Final = 100
"""How many settled questions are remembered, so that a late decision is told who was first."""

RulingKind = Literal["yes", "no", "instruct", "answer", "nobody"]


@dataclass(frozen=True, slots=True)
class Ruling:
    """How a question was settled; `nobody` means that its time ran out and that the run is to be parked."""

    kind: RulingKind
    by: str = NOBODY
    text: str = ""
    """The reason, the instruction or the answer."""


@dataclass(slots=True)
class Question:
    """One open question."""

    request: AskRequest
    preview: str
    version: int = 1
    yes: dict[str, None] = field(default_factory=dict)
    allowed: tuple[str, ...] | None = None
    """Who may decide; None while that is looked up."""
    until: datetime | None = None
    ruling: Ruling | None = None
    telling: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def call_id(self) -> str:
        """The call that it is about."""
        return self.request.call_id

    @property
    def policy(self) -> ApprovalPolicy:
        """Who decides, and until when."""
        return self.request.policy

    @property
    def escalated(self) -> bool:
        """Whether it is the others' to decide by now."""
        return self.request.escalated

    @property
    def named(self) -> tuple[str, ...]:
        """Who may decide, as declared."""
        return self.policy.escalate_to if self.escalated else self.policy.by

    def shown(self) -> Approval:
        """As the run's view shows it."""
        request, policy = self.request, self.policy
        return Approval(
            call_id=request.call_id,
            tool=request.tool,
            preview=self.preview,
            step=request.step,
            kind=request.kind,
            reason=request.reason,
            version=self.version,
            since=request.since,
            until=self.until,
            by=self.named,
            yes=tuple(self.yes),
            quorum=policy.quorum,
            risk=policy.risk,
        )

    def refuses(self, by: str) -> str:
        """Why this person may not decide; empty when they may."""
        policy, request = self.policy, self.request
        if policy.not_by_user and request.user is not None and by == request.user:
            return f"{by} is the run's own user; somebody else must decide"
        named = bool(policy.by or policy.not_by_user or policy.quorum > 1 or self.escalated)
        if named and by == NOBODY:
            return "say who decides: by"
        if self.allowed is None and (policy.by or self.escalated):
            return "who may decide is still being looked up; send it again in a moment"
        if self.allowed and by not in self.allowed:
            return f"{by} may not decide on this; {', '.join(self.allowed)} may"
        return ""


class Questions:
    """All questions of a run."""

    def __init__(self, control: RunControl, clock: WorkClock, scribe: Scribe, show: Callable[[], None]) -> None:
        self._control = control
        self._clock = clock
        self._scribe = scribe
        self._show = show
        self._open: dict[str, Question] = {}
        self._asked: dict[str, int] = {}
        self._settled: dict[str, tuple[str, str]] = {}

    @property
    def open(self) -> tuple[Question, ...]:
        """Those that wait, in the order in which they were asked."""
        return tuple(question for question in self._open.values() if question.ruling is None)

    def find(self, call_id: str) -> Question | None:
        """The open question about a call."""
        found = self._open.get(call_id)
        return found if found is not None and found.ruling is None else None

    def is_open(self, question: Question) -> bool:
        """Whether it still waits."""
        return question.ruling is None

    def missed(self, call_id: str, order: str, by: str) -> Verdict:
        """What to tell somebody whose question is not open: who was first, or that there is none."""
        first = self._settled.get(call_id)
        if first is None:
            waiting = ", ".join(self._open) or "none"
            return Verdict(outcome="refused", reason=f"no call {call_id!r} waits for a decision; waiting: {waiting}")
        if first == (order, by):
            return Verdict(outcome="duplicate", reason="it was decided so already")
        return Verdict(outcome="late", reason=f"{first[1]} has decided already: {first[0]}")

    def settle(self, question: Question, ruling: Ruling, order: str) -> None:
        """End a question; the first ruling stands."""
        if question.ruling is not None:
            return
        question.ruling = ruling
        self._settled[question.call_id] = (order, ruling.by)
        while len(self._settled) > REMEMBERED:
            del self._settled[next(iter(self._settled))]

    async def ask(self, request: AskRequest, call: ToolCallRef) -> Ruling:
        """Put a question before people and wait, however long, for what they say, or for the time that the policy gives them."""
        asked = self._asked[call.call_id] = self._asked.get(call.call_id, 0) + 1
        until = request.since + timedelta(seconds=request.policy.timeout_s) if request.policy.timeout_s else None
        question = Question(request.model_copy(update={"asked": asked, "until": until}), call.preview, until=until)
        self._open[call.call_id] = question
        self._control.questions = self._shown()
        self._tell(question)
        with self._clock.waiting():
            while question.ruling is None:
                await self._wait(question)
            if question.telling:  # the inbox hears of the question before it hears of its end
                await workflow.wait(question.telling)
            del self._open[call.call_id]
            self._control.questions = self._shown()
        return question.ruling

    async def look_up(self, question: Question) -> None:
        """Who may decide now: whoever came into a group meanwhile may, whoever left it may not."""
        await self._put(question, question.request.model_copy(update={"occasion": "decision"}), policies.WHO_DECIDES)

    async def withdraw(self) -> None:
        """Ask nobody any more: the run ends otherwise."""
        tasks = [task for question in self._open.values() for task in question.telling if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await workflow.wait(tasks)
        self._open.clear()
        self._control.questions = ()

    def changed(self) -> None:
        """A vote or a new version is to be seen."""
        self._control.questions = self._shown()
        self._show()

    def _shown(self) -> tuple[Approval, ...]:
        return tuple(question.shown() for question in self._open.values())

    async def _wait(self, question: Question) -> None:
        """Until it is settled, or the next reminder or its time is due."""
        now, policy = workflow.now(), question.policy
        reminder = question.request.number + 1
        due = question.request.since + timedelta(seconds=reminder * policy.remind_every_s) if policy.remind_every_s else None
        moments = [moment for moment in (due, question.until) if moment is not None]
        if not moments:
            await workflow.wait_condition(lambda: question.ruling is not None)
            return
        left_s = max(0.001, (min(moments) - now).total_seconds())
        try:
            summary = f"step {question.request.step}: waits for a person"
            await workflow.wait_condition(lambda: question.ruling is not None, timeout=left_s, timeout_summary=summary)
        except TimeoutError:
            if question.until is not None and workflow.now() >= question.until:
                self._out_of_time(question)
            elif due is not None and workflow.now() >= due:
                question.request = question.request.model_copy(update={"occasion": "reminder", "number": reminder})
                self._tell(question)

    def _out_of_time(self, question: Question) -> None:
        policy = question.policy
        if policy.on_timeout == "escalate" and not question.escalated:
            question.yes.clear()
            question.allowed = None
            question.until = (question.until or workflow.now()) + timedelta(seconds=policy.timeout_s or 0)
            question.request = question.request.model_copy(update={"occasion": "escalated", "escalated": True, "until": question.until})
            self._note_time(question, "escalated to " + ", ".join(policy.escalate_to), closes=False)
            self._tell(question)
            self.changed()
            return
        kind: RulingKind = {"approve": "yes", "park": "nobody"}.get(policy.on_timeout, "no")  # type: ignore[assignment]
        said = f"nobody decided within {policy.timeout_s:g} s" + (", escalated though it was" if question.escalated else "")
        self._note_time(question, f"{said}: {policy.on_timeout if not question.escalated else 'reject'}", closes=True)
        self.settle(question, Ruling(kind, "the time-out", said), "timeout")

    def _note_time(self, question: Question, reason: str, *, closes: bool) -> None:
        request = question.request
        self._scribe.note(
            order="timeout",
            channel="timer",
            by="timer",
            call_id=request.call_id,
            step=request.step,
            outcome="accepted",
            reason=reason,
            version=question.version,
            closes=closes,
        )

    def _tell(self, question: Question) -> None:
        question.telling = [task for task in question.telling if not task.done()]
        question.telling.append(asyncio.create_task(self._put(question, question.request, policies.PEOPLE)))

    async def _put(self, question: Question, request: AskRequest, policy: policies.ActivityPolicy) -> None:
        try:
            asked = await workflow.execute_activity(
                stubs.ask_person,
                request,
                summary=f"step {request.step}: {request.occasion}, {request.kind} of {request.tool}",
                **policy.options(),
            )
        except ActivityError:  # the run shows it all the same, who could decide can, and everything but the inbox works
            event = "question.not_looked_up" if request.occasion == "decision" else "question.not_in_the_inbox"
            workflow.logger.error(event, extra={"call_id": request.call_id})
            return
        if request.escalated == question.escalated:
            question.allowed = asked.allowed
