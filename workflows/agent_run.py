"""The durable agent loop: ask the model, run the tools it asks for, until it answers. It decides; activities do."""

from __future__ import annotations

from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, is_cancelled_exception

from workflows import memory_steps, model_steps, tool_steps
from workflows.contracts import names
from workflows.contracts.runs import Decision, ModelTurn, Parked, Redrive, RunInput, RunOutcome, RunStatus, RunView, TurnKind
from workflows.course import Course
from workflows.run_control import Aborted, read_order


@workflow.defn(name=names.AGENT_RUN)
class AgentRun:
    """One run of one agent. Its content is in PostgreSQL; its history holds decisions only."""

    @workflow.init
    def __init__(self, given: RunInput) -> None:
        self._course = Course(given)

    @workflow.run
    async def run(self, given: RunInput) -> RunOutcome:
        """Go on until there is an answer; what cannot go on waits, parked, for a person."""
        course = self._course
        try:
            if given.carry is None and course.agent.memory.recall:
                await memory_steps.recall(course)
            turn = await self._loop()
            if course.agent.memory.remember:
                await memory_steps.remember(course)
        except Aborted as aborted:
            return self._failed(aborted.parked)
        except BaseException as error:
            if is_cancelled_exception(error):
                course.control.close(RunStatus.CANCELLED, course.totals)
            raise
        course.doing = "done"
        course.control.close(RunStatus.COMPLETED, course.totals)
        return RunOutcome(
            run_id=given.run_id,
            agent=course.agent.name,
            answer_step=turn.last_step,
            preview=turn.preview,
            totals=course.totals,
            simulated=turn.simulated,
            waited_s=course.control.waited_s,
        )

    @workflow.signal(name=names.APPROVE, description='Yes to a tool call, or to all that wait: {"call_id": …}')
    def approve(self, *given: Any) -> None:
        """A person's yes to one waiting tool call, or to all that wait. Takes one `Decision`."""
        self._decide(given, approved=True)

    @workflow.signal(name=names.REJECT, description='No to a tool call, or to all that wait: {"call_id": …, "reason": …}')
    def reject(self, *given: Any) -> None:
        """A person's no, with a reason that is told to the model. Takes one `Decision`."""
        self._decide(given, approved=False)

    @workflow.signal(name=names.REDRIVE, description='How a parked run goes on: {"action": "retry"}, "skip" or "abort"')
    def redrive(self, *given: Any) -> None:
        """Let a parked run go on. Takes one `Redrive`."""
        order = read_order(Redrive, given)
        if order is not None and self._course.control.redrive(order):
            agent = self._course.agent
            self._course.agent = agent.model_copy(update={"limits": order.limits or agent.limits, "model": order.model or agent.model})

    @workflow.signal(name=names.WAKE, description="Try a delayed step again now, since a budget or a limit was changed: {}")
    def wake(self, *_given: Any) -> None:
        """Try a delayed step again now. Takes nothing; whatever is sent is ignored."""
        self._course.control.wake()

    @workflow.query(name=names.VIEW)
    def view(self) -> RunView:
        """The run as it stands."""
        return self._course.view()

    def _decide(self, given: tuple[Any, ...], *, approved: bool) -> None:
        decision = read_order(Decision, given)
        if decision is not None:
            self._course.control.decide(decision, approved=approved)

    async def _loop(self) -> ModelTurn:
        course = self._course
        while True:
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(course.given.model_copy(update={"carry": course.carry()}))
            turn = await model_steps.ask(course)
            if turn.kind is TurnKind.CONTEXT_FULL:
                await model_steps.compact(course, turn)
                continue
            if turn.kind is TurnKind.LIMIT:
                await course.stop_at_limit(turn.reason)
                continue
            course.compacted = False
            if turn.kind is TurnKind.FINAL:
                return turn
            await model_steps.correct(course, turn)
            if turn.calls:
                await tool_steps.run_tools(course, turn)

    def _failed(self, parked: Parked) -> RunOutcome:
        """A sub-run tells its caller; a run of its own fails where everybody can see it."""
        course = self._course
        course.doing = "stopped"
        course.control.close(RunStatus.FAILED, course.totals, parked)
        outcome = RunOutcome(
            run_id=course.given.run_id,
            status=RunStatus.FAILED,
            agent=course.agent.name,
            totals=course.totals,
            failure=parked,
            waited_s=course.control.waited_s,
        )
        if course.given.parent_run_id:
            return outcome
        raise ApplicationError(f"{parked.what}: {parked.cause}", outcome, type=parked.failure_class.value, non_retryable=True)
