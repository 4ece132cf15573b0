"""The course of a run: its state from step to step, and what every kind of step does with it."""

from __future__ import annotations

from typing import Any

from temporalio import workflow

from workflows import run_view
from workflows.contracts.agents import ApprovalPolicy
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import AskRequest, QuestionKind, RecordRequest
from workflows.contracts.runs import Carry, Parked, RunInput, RunOutcome, RunView
from workflows.contracts.steps import Appendix, MemoryRequest, ModelCallRequest, ToolCallRef
from workflows.questions import Questions
from workflows.run_control import RunControl
from workflows.run_state import RepeatWatch, limit_reached
from workflows.scribe import Scribe
from workflows.work_clock import WorkClock

FIRST_MESSAGE = 10
"""The part of a step's transcript at which people's messages begin, past the step's own rows."""


class Course:
    """One run between its steps. Small: content is in PostgreSQL."""

    def __init__(self, given: RunInput) -> None:
        carry = given.carry or Carry(agent=given.agent)
        self.given = given
        self.agent = carry.agent
        self.step = carry.step
        """The highest step number that is used."""
        self.totals = carry.totals
        self.appendices: list[Appendix] = list(carry.appendices)
        """What the next model call appends to the transcript first."""
        self.corrections = carry.corrections
        self.compacted = carry.compacted
        self.repeats = RepeatWatch(carry.repeats)
        self.messages: list[str] = list(carry.messages)
        """What people said that the model has yet to be told."""
        self.clock = WorkClock(carry.worked_s, carry.waited_s, lambda: self.control.publish())
        self.scribe = Scribe(self.record_request, carry.notes)
        self.control = RunControl(self.clock, self.scribe, self.show, self.out_of_time, tells_caller=given.parent_run_id is not None)
        self.control.paused_by = carry.paused_by
        self.questions = Questions(self.control, self.clock, self.scribe, self.show)
        self.model = carry.agent.model
        self.previous = carry.previous
        """The PROVIDER:MODEL of the last call."""
        self.doing = "starting"

    @property
    def left_s(self) -> float:
        """Seconds of work that the run's limit leaves."""
        return self.agent.limits.time_s - self.clock.worked_s

    def out_of_time(self) -> str | None:
        """The limit on time in words, when it is reached: a step that was cut short then did not fail by itself."""
        limits = self.agent.limits
        return f"limit time_s: {self.clock.worked_s:.0f} of {limits.time_s:g} used" if self.left_s <= 0 else None

    def now(self, step: int, doing: str) -> None:
        """Say what the run does now."""
        self.step = max(self.step, step - 1)
        self.doing = doing
        self.show()

    def show(self) -> None:
        """Write the current details, as the Temporal Web UI shows them."""
        details = run_view.current_details(self.view())
        if self.given.carry is not None:  # Temporal gives static details to a run's first execution only
            details = f"{details}\n\n{run_view.static_details(self.given)}"
        workflow.set_current_details(details)

    def view(self) -> RunView:
        """The run as it stands."""
        return RunView(
            run_id=self.given.run_id,
            agent=self.agent.name,
            status=self.control.status,
            step=self.step,
            model=self.model,
            totals=self.totals,
            doing=self.doing,
            limits=self.agent.limits,
            approvals=self.control.questions,
            parked=next(iter(self.control.parked), None),
            dead_letters=self.control.parked,
            delayed_s=self.control.delayed_s,
        )

    def append(self, call: ToolCallRef, text: str, *, is_error: bool = False, child_run_id: str | None = None) -> None:
        """Answer a tool call here, without an activity."""
        self.appendices.append(
            Appendix(step=call.step, call_id=call.call_id, name=call.name, text=text, is_error=is_error, child_run_id=child_run_id)
        )

    async def stay_within_limits(self) -> None:
        """Park while a limit forbids the next call; before every attempt, since a throttled one may have waited for hours."""
        while reached := limit_reached(self.agent.limits, self.totals, self.clock.worked_s):
            await self.stop_at_limit(reached)

    async def stop_at_limit(self, reached: str) -> None:
        """Park at a limit; a sub-run's caller is told instead."""
        parked = Parked(failure_class=FailureClass.LIMIT, cause=reached, step=self.step + 1, what=f"run {self.agent.name}")
        await self.control.park(parked, may_skip=False)

    def model_request(self, step: int) -> ModelCallRequest:
        """What a model call is given."""
        return ModelCallRequest(
            run_id=self.given.run_id,
            step=step,
            agent=self.agent,
            tenant=self.given.tenant,
            user=self.given.user,
            priority=self.given.priority,
            previous=self.previous,
            appendices=tuple(self.appendices),
        )

    def tell(self) -> None:
        """Have the next model call append what people said meanwhile, after all that was said before."""
        for message in self.messages:
            told = sum(appendix.step == self.step and not appendix.call_id for appendix in self.appendices)
            self.appendices.append(Appendix(step=self.step, part=FIRST_MESSAGE + told, call_id="", name="", text=message))
        self.messages.clear()

    def record_request(self) -> RecordRequest:
        """What the record is written with."""
        given = self.given
        return RecordRequest(run_id=given.run_id, tenant=given.tenant, user=given.user, agent=self.agent)

    def ask_request(self, call: ToolCallRef, model_step: int, kind: QuestionKind, policy: ApprovalPolicy | None, reason: str) -> AskRequest:
        """What a question is put before people with."""
        given = self.given
        return AskRequest(
            run_id=given.run_id,
            step=call.step,
            call_id=call.call_id,
            model_step=model_step,
            kind=kind,
            tool=call.name,
            agent=self.agent,
            tenant=given.tenant,
            user=given.user,
            policy=policy or ApprovalPolicy(),
            reason=reason,
            since=workflow.now(),
        )

    def memory_request(self, step: int) -> MemoryRequest:
        """What an activity of memory is given."""
        given = self.given
        return MemoryRequest(run_id=given.run_id, step=step, agent=self.agent, tenant=given.tenant, user=given.user)

    def outcome(self, **fields: Any) -> RunOutcome:
        """How the run ended."""
        return RunOutcome(run_id=self.given.run_id, agent=self.agent.name, totals=self.totals, waited_s=self.clock.waited_s, **fields)

    def carry(self) -> Carry:
        """What the next execution goes on with."""
        return Carry(
            step=self.step,
            totals=self.totals,
            agent=self.agent,
            appendices=tuple(self.appendices),
            corrections=self.corrections,
            repeats=self.repeats.calls,
            previous=self.previous,
            compacted=self.compacted,
            worked_s=self.clock.worked_s,
            waited_s=self.clock.waited_s,
            notes=self.scribe.numbered,
            messages=tuple(self.messages),
            paused_by=self.control.paused_by,
        )
