"""A long run goes on in a new execution when the server suggests it, and nothing of its state is lost on the way."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from temporalio.client import WorkflowExecutionStatus

from tests.workflow.scripted import (
    Answer,
    Engine,
    Handle,
    Script,
    agent,
    asks_for,
    call,
    current_details,
    final,
    hand_over,
    invalid,
    no_call,
)
from workflows.contracts import names
from workflows.contracts.agents import Limits
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import Decision
from workflows.contracts.runs import Redrive, RunStatus
from workflows.contracts.steps import TurnKind

PADDING = "x" * 900_000
"""The server suggests a new execution at 4 MiB of history (or 4,096 events): results this fat get there in six turns."""
PADDED_TURNS = 6


def padded(answer: Answer) -> Answer:
    """The same turn, so fat that a few of them make the server suggest continue-as-new."""

    def answers(request: Any) -> Any:
        return answer(request).model_copy(update={"preview": PADDING})  # type: ignore[union-attr]

    return answers


def work(place: int) -> Answer:
    return padded(asks_for(call("find_order", {"place": place})))


async def executions(engine: Engine, handle: Handle) -> list[WorkflowExecutionStatus | None]:
    """How each execution of the run ended, oldest first."""
    statuses = []
    run_id = handle.first_execution_run_id
    while run_id:
        execution = engine.client.get_workflow_handle(handle.id, run_id=run_id)
        statuses.append((await execution.describe()).status)
        last = [event async for event in execution.fetch_history_events()][-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return statuses


async def has_continued(engine: Engine, handle: Handle) -> bool:
    described = await engine.client.get_workflow_handle(handle.id).describe()
    return described.run_id != handle.first_execution_run_id


async def test_a_long_run_goes_on_in_a_new_execution_with_its_numbers(engine: Engine, script: Script) -> None:
    turns = PADDED_TURNS + 2
    script.model("support", *map(work, range(turns)), final())
    handle = await engine.start(agent(steps=100))
    outcome = await engine.result(handle)

    assert await executions(engine, handle) == [WorkflowExecutionStatus.CONTINUED_AS_NEW, WorkflowExecutionStatus.COMPLETED]
    assert [request.step for request in script.asked] == [1 + 2 * turn for turn in range(turns + 1)]
    assert [request.step for request in script.ran] == [2 + 2 * turn for turn in range(turns)]
    totals = outcome.totals
    assert (totals.steps, totals.calls, totals.usage.input_tokens) == (2 * turns + 1, turns + 1, 100 * (turns + 1))
    assert totals.cost_usd == Decimal("0.001") * (turns + 1)
    assert outcome.answer_step == 2 * turns + 1


async def test_limits_count_over_all_executions(engine: Engine, script: Script) -> None:
    turns = PADDED_TURNS + 2
    script.model("support", *map(work, range(turns)), final())
    handle = await engine.start(agent(calls=turns))
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.cause == f"limit calls: {turns} used"
    assert await has_continued(engine, handle)


async def test_what_the_engine_told_last_is_carried_to_the_next_execution(engine: Engine, script: Script) -> None:
    refused = [padded(asks_for(call("refund", {"place": place}, needs_approval=True))) for place in range(PADDED_TURNS + 1)]
    script.model("support", *refused, final())
    handle = await engine.start(agent())
    for place in range(len(refused)):
        step = 2 + 2 * place
        await engine.until(handle, lambda view, step=step: bool(view.approvals) and view.approvals[0].step == step)
        await handle.signal(names.REJECT, Decision(call_id=f"call_{step}", reason=f"no {place}"))
    await engine.result(handle)

    assert len(await executions(engine, handle)) == 2
    told = [[appendix.text for appendix in request.appendices] for request in script.asked]
    assert told == [[], *[[f"A person said no: no {place}"] for place in range(len(refused))]]


async def test_repeats_are_counted_over_all_executions(engine: Engine, script: Script) -> None:
    same = asks_for(call("status"))
    script.model("support", same, *map(work, range(PADDED_TURNS)), same, final())
    handle = await engine.start(agent(repeats=1))
    await engine.result(handle)
    assert len(await executions(engine, handle)) == 2
    assert [request.name for request in script.ran].count("status") == 1
    assert script.asked[-1].appendices[0].text.startswith("Not run: 1 such calls")


async def test_malformed_answers_in_a_row_are_counted_over_all_executions(engine: Engine, script: Script) -> None:
    script.model("support", *map(work, range(PADDED_TURNS - 2)), *[padded(invalid())] * 2, invalid(), final())
    handle = await engine.start(agent(corrections=2))
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.MODEL_BEHAVIOUR
    assert view.parked.cause.startswith("3 malformed answers in a row")
    assert await has_continued(engine, handle)


async def test_a_new_execution_still_knows_that_the_history_was_just_summarised(engine: Engine, script: Script) -> None:
    def fat_full(request: Any) -> Any:
        turn = no_call(TurnKind.CONTEXT_FULL, "no room")(request)
        return turn.model_copy(update={"preview": PADDING})  # type: ignore[union-attr]

    script.model("support", *map(work, range(PADDED_TURNS - 2)), fat_full, fat_full)
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.failure_class is FailureClass.CONTEXT
    assert len(script.compacted) == 1
    assert await has_continued(engine, handle)
    last = [event.activity_task_scheduled_event_attributes.activity_type.name for event in await engine.events(handle)]
    assert names.COMPACT not in last, "the summary was made in the execution before"


async def test_a_new_execution_looks_the_same_from_outside(engine: Engine, script: Script) -> None:
    script.model("support", *map(work, range(PADDED_TURNS + 1)), asks_for(call("refund", needs_approval=True)), final())
    handle = await engine.start(agent(), user="u1", tenant="t1")
    await engine.until(handle, lambda view: bool(view.approvals))
    assert await has_continued(engine, handle)

    described = await engine.client.get_workflow_handle(handle.id).describe()
    shown = described.search_attributes
    assert shown[names.AGENT_NAME] == ["support"]
    assert shown[names.AGENT_USER] == ["u1"]
    assert shown[names.TENANT] == ["t1"]
    assert shown[names.AGENT_STATUS] == [RunStatus.WAITING_APPROVAL.value]
    details = await current_details(handle)
    assert details.startswith("**Waiting approval** at step")
    assert "**Agent** support, version 1" in details
    assert "**Tenant** t1, user u1" in details
    await handle.signal(names.APPROVE, {})
    await engine.result(handle)


async def test_a_handed_over_conversation_and_raised_limits_stay_in_the_next_execution(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(hand_over(agent("refunds"))))
    script.model("refunds", *map(work, range(PADDED_TURNS + 1)), final())
    handle = await engine.start(agent(calls=1))
    await engine.parked(handle)
    await handle.signal(names.REDRIVE, Redrive(limits=Limits(calls=77)))
    outcome = await engine.result(handle)
    assert len(await executions(engine, handle)) == 2
    assert outcome.agent == "refunds"
    assert script.asked[-1].agent.limits.calls == 77
