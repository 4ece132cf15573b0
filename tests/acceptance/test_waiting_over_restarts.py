"""What waits for a person outlives everything: a restart of all parts, a deploy of a changed workflow, and a deploy of a wrong one."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.client import WorkflowHistory

from client.run import Run
from client.temporal import connect_temporal
from devstack.process import ServerProcess
from devstack.stack import StackSettings, open_stack
from state.inbox import Waiting
from testkit.processes import logged, process
from tests.acceptance.conftest import AGENTS, House, open_house, until
from tests.replay.changed import Grown, Hasty
from tests.replay.test_replay import replayer
from workflows.contracts import names
from workflows.contracts.errors import RunStateError, UnavailableError
from workflows.contracts.runs import RunStatus

WITHIN_S = 90.0


def request(order: str) -> str:
    """A look-up, a payment that needs a yes, another look-up."""
    return f'call look_up {{"number": 3}}\ncall pay {{"order_id": "{order}"}}\ncall look_up {{"number": 4}}'


def answer(order: str) -> str:
    """What the run says at its end."""
    return f"Done: number 3 is 9; {order} paid; number 4 is 16"


@pytest.fixture
async def own_house(tmp_path: Path) -> AsyncIterator[House]:
    """A house whose servers this test may take down; they keep their data."""
    settings = StackSettings(ui_port=None, data=tmp_path / "data")
    async with open_stack(settings) as stack, open_house(stack, tmp_path) as opened:
        yield opened


async def test_an_approval_outlives_a_restart_of_everything(own_house: House) -> None:
    first = await own_house.start_worker()
    run = await own_house.holdfast.start("cashier", request("R1"), user="carl")
    asked = await _asked(own_house, run)
    with pytest.raises(RunStateError, match="no call 'c999'"):
        await run.approve("c999", by="bob")

    assert await first.kill() == -signal.SIGKILL
    await own_house.stack.kill_temporal()
    await own_house.stack.kill_postgres()
    with pytest.raises(OSError, match="Connect"):
        await own_house.rows("select 1")
    with pytest.raises(UnavailableError):
        await connect_temporal(own_house.settings)
    await own_house.stack.start_postgres()
    await own_house.stack.start_temporal()
    await own_house.start_worker()

    await until(lambda: _waits(run), "the run answers again, and waits")
    assert replace(await _asked(own_house, run), age_s=asked.age_s) == asked
    verdict = await run.approve(asked.call_id, by="ann", reason="it is ours")
    assert verdict.outcome == "accepted"
    assert await run.result(timeout_s=WITHIN_S) == answer("R1")
    await _assert_paid_once(own_house, run, "R1")
    assert await _audit(own_house, run) == [(1, "approve", "bob", "refused"), (2, "approve", "ann", "accepted")]
    assert await own_house.holdfast.inbox.list(run=run.id) == ()


async def test_an_approval_outlives_a_deploy_of_a_changed_workflow(house: House) -> None:
    first = await house.start_worker()
    run = await house.holdfast.start("cashier", request("D1"))
    asked = await _asked(house, run)
    assert await first.stop() == 0

    await _changed_worker(house, Grown)
    await run.approve(asked.call_id, by="ann")
    later = await house.holdfast.start("cashier", request("D2"))
    await _asked(house, later)
    await later.approve(by="ann")

    assert await run.result(timeout_s=WITHIN_S) == answer("D1")
    assert await later.result(timeout_s=WITHIN_S) == answer("D2")
    for each, order, patches in ((run, "D1", 1), (later, "D2", 2)):
        found = _kinds(await _history(house, each))
        assert (found[EventType.EVENT_TYPE_MARKER_RECORDED], found[EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED]) == (patches, 0)
        await _assert_paid_once(house, each, order)
        assert await _audit(house, each) == [(1, "approve", "ann", "accepted")]


async def test_the_replay_gate_refuses_a_wrong_change_and_a_run_that_met_it_goes_on_after_the_right_one(house: House) -> None:
    first = await house.start_worker()
    run = await house.holdfast.start("cashier", request("D3"))
    await _asked(house, run)
    assert await first.stop() == 0
    waiting = await _history(house, run)
    await replayer(Grown).replay_workflow(waiting)
    with pytest.raises(workflow.NondeterminismError):
        await replayer(Hasty).replay_workflow(waiting)

    wrong = await _changed_worker(house, Hasty)  # deployed all the same
    client = await connect_temporal(house.settings)
    await client.get_workflow_handle(run.id).signal(names.APPROVE, {"by": "ann"})
    await until(lambda: _refused(house, run), "the wrong worker has failed at the run's history")
    assert await run.status() is RunStatus.WAITING_APPROVAL
    await wrong.stop()
    await house.start_worker()

    assert await run.result(timeout_s=WITHIN_S) == answer("D3")
    await _assert_paid_once(house, run, "D3")
    assert await _audit(house, run) == [(1, "approve", "ann", "accepted")]


async def _changed_worker(house: House, change: type) -> ServerProcess:
    """A worker whose workflow is this one; it serves when this returns."""
    arguments = ["-m", "tests.acceptance.changed_worker", change.__name__, "--agents", str(AGENTS)]
    started = await house.exits.enter_async_context(process(change.__name__.lower(), arguments, house.environ, house.folder))
    await logged(started, "worker.serving")
    return started


async def _asked(house: House, run: Run) -> Waiting:
    """The one question of the run, once it is in the inbox."""
    (one,) = await until(lambda: house.holdfast.inbox.list(run=run.id), "the run waits for a yes")
    assert isinstance(one, Waiting)
    return one


async def _waits(run: Run) -> bool:
    try:
        return bool((await run.view()).approvals)
    except UnavailableError:
        return False


async def _history(house: House, run: Run) -> WorkflowHistory:
    client = await connect_temporal(house.settings)
    return await client.get_workflow_handle(run.id).fetch_history()


def _kinds(history: WorkflowHistory) -> Counter[int]:
    return Counter(event.event_type for event in history.events)


async def _refused(house: House, run: Run) -> bool:
    """Whether a worker found that its code and the history do not fit."""
    failed = [event.workflow_task_failed_event_attributes for event in (await _history(house, run)).events]
    return any(each.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR for each in failed)


async def _assert_paid_once(house: House, run: Run, order: str) -> None:
    """The payment was done once, and every answer paid once."""
    assert [row["idempotency_key"] for row in await house.rows("select * from payments where order_id = $1", order)] == [
        f"default:pay:order_id={order}"
    ]
    billed = Counter(entry["idempotency_key"] for entry in await house.journal() if entry["billed"])
    assert [billed[f"{run.id}:{step}"] for step in (1, 3, 5, 7)] == [1, 1, 1, 1]
    states = await house.rows("select step, state from model_calls where run_id = $1 order by step", run.id)
    assert [(row["step"], row["state"]) for row in states] == [(step, "recorded") for step in (1, 3, 5, 7)]


async def _audit(house: House, run: Run) -> list[tuple[int, str, str, str]]:
    rows = await house.rows("select number, order_name, by, outcome from decisions where run_id = $1 order by decision_id", run.id)
    return [(row["number"], row["order_name"], row["by"], row["outcome"]) for row in rows]
