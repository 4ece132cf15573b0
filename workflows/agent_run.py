"""The durable agent loop: ask the model, run the tools it asks for, until it answers. It decides; activities do."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Coroutine
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ApplicationError, is_cancelled_exception

from workflows import run_view
from workflows.contracts import names, policies, stubs
from workflows.contracts.agents import ToolKind
from workflows.contracts.errors import FailureClass
from workflows.contracts.runs import (
    Appendix,
    Carry,
    CompactOutcome,
    Decision,
    MemoryRequest,
    ModelCallRequest,
    ModelTurn,
    Parked,
    Redrive,
    RunInput,
    RunOutcome,
    RunStatus,
    RunView,
    ToolCallRef,
    ToolRunRequest,
    TurnKind,
)
from workflows.run_control import Aborted, RunControl, Skipped, read_order
from workflows.run_state import RepeatWatch, add_child, add_turn, limit_reached

MAX_DEPTH = 5
"""How deep agents may call agents."""


@workflow.defn(name=names.AGENT_RUN)
class AgentRun:
    """One run of one agent. Its content is in PostgreSQL; its history holds decisions only."""

    @workflow.init
    def __init__(self, given: RunInput) -> None:
        carry = given.carry or Carry(agent=given.agent)
        self._given = given
        self._agent = carry.agent
        self._step = carry.step
        self._totals = carry.totals
        self._appendices: list[Appendix] = list(carry.appendices)
        self._corrections = carry.corrections
        self._compacted = carry.compacted
        self._repeats = RepeatWatch(carry.repeats)
        self._control = RunControl(carry.worked_s, carry.waited_s, self._show, tells_caller=given.parent_run_id is not None)
        self._doing = "starting"
        self._model = carry.agent.model

    @workflow.run
    async def run(self, given: RunInput) -> RunOutcome:
        """Go on until there is an answer; what cannot go on waits, parked, for a person."""
        try:
            if given.carry is None and self._agent.memory.recall:
                await self._recall()
            turn = await self._loop()
            if self._agent.memory.remember:
                await self._remember()
        except Aborted as aborted:
            return self._failed(aborted.parked)
        except BaseException as error:
            if is_cancelled_exception(error):
                self._control.close(RunStatus.CANCELLED, self._totals)
            raise
        self._doing = "done"
        self._control.close(RunStatus.COMPLETED, self._totals)
        return RunOutcome(
            run_id=given.run_id,
            agent=self._agent.name,
            answer_step=turn.last_step,
            preview=turn.preview,
            totals=self._totals,
            simulated=turn.simulated,
            waited_s=self._control.waited_s,
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
        if order is not None and self._control.redrive(order):
            agent = self._agent
            self._agent = agent.model_copy(update={"limits": order.limits or agent.limits, "model": order.model or agent.model})

    @workflow.query(name=names.VIEW)
    def view(self) -> RunView:
        """The run as it stands."""
        return RunView(
            run_id=self._given.run_id,
            agent=self._agent.name,
            status=self._control.status,
            step=self._step,
            model=self._model,
            totals=self._totals,
            doing=self._doing,
            limits=self._agent.limits,
            approvals=self._control.approvals,
            parked=self._control.parked,
        )

    def _decide(self, given: tuple[Any, ...], *, approved: bool) -> None:
        decision = read_order(Decision, given)
        if decision is not None:
            self._control.decide(decision, approved=approved)

    async def _loop(self) -> ModelTurn:
        while True:
            if workflow.info().is_continue_as_new_suggested():
                await workflow.wait_condition(workflow.all_handlers_finished)
                workflow.continue_as_new(self._given.model_copy(update={"carry": self._carry()}))
            turn = await self._ask_model()
            if turn.kind is TurnKind.CONTEXT_FULL:
                await self._compact(turn)
                continue
            if turn.kind is TurnKind.LIMIT:
                await self._stop_at_limit(turn.reason)
                continue
            self._compacted = False
            if turn.kind is TurnKind.FINAL:
                return turn
            await self._correct(turn)
            if turn.calls:
                await self._run_tools(turn)

    async def _ask_model(self) -> ModelTurn:
        step = self._step + 1

        async def attempt() -> ModelTurn:
            await self._stay_within_limits()
            self._now(step, f"asking {self._agent.model}")
            return await workflow.execute_activity(
                stubs.call_model,
                self._model_request(step),
                summary=f"step {step}: {self._agent.name} asks {self._agent.model}",
                **policies.MODEL_CALL.options(within_s=self._left_s()),
            )

        turn = await self._control.insist(attempt, step, f"call_model {self._agent.model}")
        if turn.kind in (TurnKind.CONTEXT_FULL, TurnKind.LIMIT):
            return turn
        self._appendices.clear()
        self._step = turn.last_step
        self._model = turn.model or self._model
        self._totals = add_turn(self._totals, turn)
        return turn

    async def _stay_within_limits(self) -> None:
        """Before every attempt, since a throttled one may have waited for hours."""
        while reached := limit_reached(self._agent.limits, self._totals, self._control.worked_s):
            await self._stop_at_limit(reached)

    async def _stop_at_limit(self, reached: str) -> None:
        parked = Parked(failure_class=FailureClass.LIMIT, cause=reached, step=self._step + 1, what=f"run {self._agent.name}")
        await self._control.park(parked, may_skip=False)

    async def _compact(self, turn: ModelTurn) -> None:
        step = self._step + 1
        if self._compacted:
            cause = turn.reason or "the conversation does not fit the model's context, summarised though it is"
            parked = Parked(failure_class=FailureClass.CONTEXT, cause=cause, step=step, what=f"call_model {self._agent.model}")
            await self._control.park(parked, may_skip=False)
            return

        async def attempt() -> CompactOutcome:
            await self._stay_within_limits()
            self._now(step, "summarising the older part of the conversation")
            return await workflow.execute_activity(
                stubs.compact_history,
                self._model_request(step),
                summary=f"step {step}: summarise the history",
                **policies.MODEL_CALL.options(within_s=self._left_s()),
            )

        outcome = await self._control.insist(attempt, step, "compact_history")
        self._appendices.clear()
        self._compacted = True
        self._step = step
        self._totals = self._totals.model_copy(
            update={
                "steps": self._totals.steps + 1,
                "calls": self._totals.calls + 1,
                "usage": self._totals.usage + outcome.usage,
                "cost_usd": self._totals.cost_usd + outcome.cost_usd,
                "unknown_usd": self._totals.unknown_usd + outcome.unknown_usd,
            }
        )

    async def _correct(self, turn: ModelTurn) -> None:
        """Bound how often in a row a malformed answer is told back to the model; the telling is in the transcript already."""
        if turn.kind is not TurnKind.INVALID and not turn.invalid_calls:
            self._corrections = 0
            return
        self._corrections += 1
        if self._corrections > self._agent.limits.corrections:
            cause = f"{self._corrections} malformed answers in a row; the last: {turn.reason}"
            parked = Parked(failure_class=FailureClass.MODEL_BEHAVIOUR, cause=cause, step=self._step, what=f"call_model {turn.model}")
            await self._control.park(parked, may_skip=False)
            self._corrections = 0

    async def _run_tools(self, turn: ModelTurn) -> None:
        while self._totals.steps + len(turn.calls) > self._agent.limits.steps:
            await self._stop_at_limit(f"limit steps: {self._agent.limits.steps} would be passed by {len(turn.calls)} tool calls")
        handed_over: ToolCallRef | None = None
        steps = []
        for call in turn.calls:
            if call.kind is not ToolKind.HANDOFF:
                steps.append(self._tool_step(call, turn.step))
            elif handed_over is None:
                handed_over = call
            else:
                self._append(call, "The conversation is handed over to one agent at a time.", is_error=True)
        self._now(self._step, "running " + ", ".join(call.name for call in turn.calls))
        self._totals = self._totals.model_copy(update={"steps": self._totals.steps + len(turn.calls)})
        with self._control.waits_of_sub_runs_forgiven():
            await _all(steps)
        if handed_over is not None and handed_over.agent is not None:
            self._append(handed_over, f"You are now {handed_over.agent.name}; the conversation so far is above.")
            self._agent = handed_over.agent.model_copy(update={"limits": self._agent.limits})

    async def _tool_step(self, call: ToolCallRef, model_step: int) -> None:
        if await self._refused_as_repeat(call):
            return
        if call.needs_approval:
            decision = await self._control.approval(call)
            if decision is not None:
                self._append(call, f"A person said no: {decision.reason or 'no reason given'}", is_error=True)
                return
        try:
            if call.kind is ToolKind.AGENT:
                await self._sub_run(call)
            else:
                await self._run_tool(call, model_step)
        except Skipped as skipped:
            self._append(call, skipped.result or "A person skipped this call.")

    async def _refused_as_repeat(self, call: ToolCallRef) -> bool:
        limit = self._agent.limits.repeats
        count = self._repeats.count(call)
        if count < limit:
            return False
        if count >= 2 * limit:
            cause = f"{call.name} was called {count} times with the same arguments and gave the same result"
            parked = Parked(failure_class=FailureClass.MODEL_BEHAVIOUR, cause=cause, step=call.step, what=f"run_tool {call.name}")
            await self._control.park(parked, may_skip=False)
            return False
        self._repeats.refused(call)
        self._append(call, f"Not run: {limit} such calls gave the same result. Do something else, or answer.", is_error=True)
        return True

    async def _run_tool(self, call: ToolCallRef, model_step: int) -> None:
        request = ToolRunRequest(
            run_id=self._given.run_id,
            step=call.step,
            model_step=model_step,
            call_id=call.call_id,
            name=call.name,
            agent=self._agent,
            tenant=self._given.tenant,
            user=self._given.user,
        )
        what = f"run_tool {call.name}"
        outcome = await self._control.insist(
            lambda: workflow.execute_activity(
                stubs.run_tool,
                request.model_copy(update={"ruled_again": self._control.ruled_again(call.step)}),
                summary=f"step {call.step}: {call.name} {call.preview}"[:200],
                **policies.TOOL_RUN.options(within_s=self._left_s(), start_to_close_s=call.timeout_s + policies.TOOL_MARGIN_S),
            ),
            call.step,
            what,
        )
        self._repeats.seen(call, outcome.result_hash)

    async def _sub_run(self, call: ToolCallRef) -> None:
        if call.agent is None or self._given.depth >= MAX_DEPTH:
            self._append(call, f"Agents may call agents at most {MAX_DEPTH} deep; answer yourself.", is_error=True)
            return
        child = RunInput(
            run_id=f"{self._given.run_id}.{call.step}",
            agent=call.agent,
            tenant=self._given.tenant,
            user=self._given.user,
            parent_run_id=self._given.run_id,
            depth=self._given.depth + 1,
        )
        outcome = await self._control.insist(
            lambda: workflow.execute_child_workflow(
                AgentRun.run,
                child,
                id=child.run_id,
                search_attributes=run_view.search_attributes(child),
                static_summary=run_view.static_summary(child, call.preview),
                static_details=run_view.static_details(child),
                **policies.CHILD_RUN,
            ),
            call.step,
            f"agent {call.name}",
        )
        self._totals = add_child(self._totals, outcome.totals)
        self._control.sub_run_waited(outcome.waited_s)
        failure = outcome.failure
        text = f"The agent {call.name} stopped: {failure.cause}" if failure else outcome.preview
        self._repeats.seen(call, hashlib.sha256(text.encode()).hexdigest()[:16])
        self._append(call, text, is_error=failure is not None, child_run_id=child.run_id)

    async def _recall(self) -> None:
        self._now(self._step, "recalling")
        await self._control.insist(
            lambda: workflow.execute_activity(
                stubs.recall, self._memory_request(0), summary="recall memories", **policies.MEMORY.options()
            ),
            0,
            "recall",
        )

    async def _remember(self) -> None:
        self._now(self._step, "remembering")
        await self._control.insist(
            lambda: workflow.execute_activity(
                stubs.remember, self._memory_request(self._step), summary="keep a memory", **policies.MEMORY.options()
            ),
            self._step,
            "remember",
        )

    def _model_request(self, step: int) -> ModelCallRequest:
        return ModelCallRequest(
            run_id=self._given.run_id,
            step=step,
            agent=self._agent,
            tenant=self._given.tenant,
            appendices=tuple(self._appendices),
        )

    def _memory_request(self, step: int) -> MemoryRequest:
        given = self._given
        return MemoryRequest(run_id=given.run_id, step=step, agent=self._agent, tenant=given.tenant, user=given.user)

    def _append(self, call: ToolCallRef, text: str, *, is_error: bool = False, child_run_id: str | None = None) -> None:
        self._appendices.append(
            Appendix(step=call.step, call_id=call.call_id, name=call.name, text=text, is_error=is_error, child_run_id=child_run_id)
        )

    def _left_s(self) -> float:
        return self._agent.limits.time_s - self._control.worked_s

    def _now(self, step: int, doing: str) -> None:
        self._step = max(self._step, step - 1)
        self._doing = doing
        self._show()

    def _show(self) -> None:
        details = run_view.current_details(self.view())
        if self._given.carry is not None:  # Temporal gives static details to a run's first execution only
            details = f"{details}\n\n{run_view.static_details(self._given)}"
        workflow.set_current_details(details)

    def _carry(self) -> Carry:
        return Carry(
            step=self._step,
            totals=self._totals,
            agent=self._agent,
            appendices=tuple(self._appendices),
            corrections=self._corrections,
            repeats=self._repeats.calls,
            compacted=self._compacted,
            worked_s=self._control.worked_s,
            waited_s=self._control.waited_s,
        )

    def _failed(self, parked: Parked) -> RunOutcome:
        """A sub-run tells its caller; a run of its own fails where everybody can see it."""
        self._doing = "stopped"
        self._control.close(RunStatus.FAILED, self._totals)
        outcome = RunOutcome(
            run_id=self._given.run_id,
            status=RunStatus.FAILED,
            agent=self._agent.name,
            totals=self._totals,
            failure=parked,
            waited_s=self._control.waited_s,
        )
        if self._given.parent_run_id:
            return outcome
        raise ApplicationError(f"{parked.what}: {parked.cause}", outcome, type=parked.failure_class.value, non_retryable=True)


async def _all(steps: list[Coroutine[Any, Any, None]]) -> None:
    """Await all; when one raises, as an order to abort does, cancel the others, and raise only when every one has ended."""
    if not steps:
        return
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        await workflow.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    if failures:
        raise next((failure for failure in failures if isinstance(failure, Aborted)), failures[0])
