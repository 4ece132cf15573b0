"""The durable agent loop: ask the model, run the tools it asks for, until it answers. It decides; activities do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, is_cancelled_exception

from workflows import endings, memory_steps, model_steps, tool_steps
from workflows.contracts import names
from workflows.contracts.people import ORDERS, Stop, TakeOver, Verdict
from workflows.contracts.runs import RunInput, RunOutcome, RunStatus, RunView
from workflows.contracts.steps import ModelTurn, TurnKind
from workflows.course import Course
from workflows.desk import Desk
from workflows.run_control import Aborted

SIGNALS = (
    f'{", ".join(ORDERS)}: each takes one JSON object, or nothing for the defaults, as approve {{"call_id": "…", "by": "you"}}; '
    f"{names.WAKE} tries a delayed step again now"
)


@workflow.defn(name=names.AGENT_RUN)
class AgentRun:
    """One run of one agent. Its content is in PostgreSQL; its history holds decisions only."""

    @workflow.init
    def __init__(self, given: RunInput) -> None:
        self._course = Course(given)
        self._desk = Desk(self._course, self._break_off)
        self._work: asyncio.Task[ModelTurn] | None = None

    @workflow.run
    async def run(self, given: RunInput) -> RunOutcome:
        """Go on until there is an answer; what cannot go on waits, parked, for a person."""
        course = self._course
        try:
            if self._desk.last_word is not None:  # it came before the first step
                raise asyncio.CancelledError
            self._work = asyncio.create_task(self._to_the_answer())
            turn = await self._work
        except Aborted as aborted:
            outcome = await endings.aborted(course, aborted.parked, aborted.order)
            await self._all_told()
            return self._failed(outcome)
        except BaseException as error:
            if not is_cancelled_exception(error):
                raise
            ended = await self._broken_off()
            await self._all_told()
            if ended is None:
                raise
            return ended
        course.doing = "done"
        course.control.close(RunStatus.COMPLETED, course.totals)
        await self._all_told()
        return course.outcome(answer_step=turn.last_step, preview=turn.preview, simulated=turn.simulated)

    @workflow.signal(dynamic=True, description=SIGNALS)
    async def ordered(self, name: str, given: Sequence[RawValue]) -> None:
        """Whatever anybody sends: carried out, or refused and noted."""
        await self._desk.take_signal(name, given)

    @workflow.update(name=names.ORDER, description='An order as {"order": "approve", …}, answered by what became of it')
    async def order(self, *given: Any) -> Verdict:
        """An order with an answer. Takes one object: `order`, and the fields of that order."""
        return await self._desk.take_update(given)

    @workflow.query(name=names.VIEW)
    def view(self) -> RunView:
        """The run as it stands."""
        return self._course.view()

    def _break_off(self) -> None:
        if self._work is not None:
            self._work.cancel()

    async def _broken_off(self) -> RunOutcome | None:
        """Clean up; None when it was Temporal that was asked to cancel."""
        last_word = self._desk.last_word
        self._course.control.ending = False  # what is tried from here on is no step that was broken off
        if workflow.cancellation_reason() is None and isinstance(last_word, TakeOver):
            return await endings.taken_over(self._course, last_word)
        if workflow.cancellation_reason() is None and isinstance(last_word, Stop):
            return await endings.stopped(self._course, last_word)
        await endings.cancelled(self._course)
        return None

    async def _all_told(self) -> None:
        """Every sender is answered and everything is on record before the run ends."""
        await workflow.wait_condition(lambda: workflow.all_handlers_finished() and not self._course.scribe.busy)

    async def _to_the_answer(self) -> ModelTurn:
        course = self._course
        if course.given.carry is None and course.given.recall and course.agent.memory.recall:
            await memory_steps.recall(course)
        turn = await self._loop()
        if course.agent.memory.remember:
            await memory_steps.remember(course)
        return turn

    async def _loop(self) -> ModelTurn:
        course = self._course
        while True:
            if workflow.info().is_continue_as_new_suggested():
                await self._all_told()
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
                if not course.messages:
                    return turn
                continue  # somebody said something meanwhile: the model is to answer that, too
            await model_steps.correct(course, turn)
            if turn.calls:
                await tool_steps.run_tools(course, turn)

    def _failed(self, outcome: RunOutcome) -> RunOutcome:
        """A sub-run tells its caller; a run of its own fails where everybody can see it."""
        failure = outcome.failure
        if self._course.given.parent_run_id or failure is None:
            return outcome
        raise ApplicationError(f"{failure.what}: {failure.cause}", outcome, type=failure.failure_class.value, non_retryable=True)
