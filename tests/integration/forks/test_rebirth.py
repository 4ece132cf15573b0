"""A run that died goes on from its recorded steps as a new one: nothing is paid twice, nothing is done twice without being asked for."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest

import worker
from activities.inference.providers.scripted import ScriptedAnswer, ScriptedModel, tool_call
from client.backend import Backend
from client.orchestrator import Orchestrator
from client.run import Run
from client.settings import Settings
from client.temporal import connect_temporal
from devstack.stack import RunningStack
from state import memories
from state.definitions import Definitions
from state.forks import ALL_STEPS, NewFork, found
from state.pool import Database
from testkit.environment import OneModel
from tests.integration.client.conftest import WRONG_KEY, status_of, until
from tests.integration.forks.conftest import AGENTS, WITHIN_S, Office, Open, calls
from tests.replay.changed import Hasty
from workflows.contracts.errors import FailureClass, RunStateError, UnknownRunError
from workflows.contracts.messages import ModelRequest
from workflows.contracts.runs import RunStatus


async def killed(office: Office, run: Run) -> None:
    """End the run from outside, as an operator may."""
    await office.env.client.get_workflow_handle(run.id).terminate(reason="by hand")
    await status_of(run, RunStatus.TERMINATED)


async def test_a_terminated_run_goes_on_where_it_waited(opened: Open, database: Database):
    office = await opened(tool_call("find", order_id="W1"), tool_call("pay", order_id="W1", amount_usd=80), "Paid.")
    run = await office.env.start("clerk", "Pay 80.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await killed(office, run)

    reborn = await office.holdfast.rebirth(run.id, by="ann")
    await status_of(reborn, RunStatus.WAITING_APPROVAL)
    await reborn.approve(by="ann")

    assert await reborn.result(timeout_s=WITHIN_S) == "Paid."
    assert reborn.id == f"{run.id}-r1"
    assert len(office.model.requests) == 3
    assert (len(office.done("find")), len(office.done("pay"))) == (1, 1)
    assert (await reborn.show()).origin == f"reborn from {run.id}"
    states = await database.fetch("select run_id, state from questions where run_id = any($1)", [run.id, reborn.id])
    assert {row["run_id"]: row["state"] for row in states} == {run.id: "withdrawn", reborn.id: "settled"}


async def test_an_effect_in_flight_at_the_death_is_asked_for_and_never_silently_done_again(opened: Open):
    office = await opened(tool_call("pay", order_id="slow-1"), "Paid, I am told.")
    run = await office.env.start("clerk", "Pay slowly.")
    await until(lambda: asyncio.to_thread(office.done, "pay"), bool)
    await killed(office, run)

    reborn = await office.holdfast.rebirth(run.id)
    await status_of(reborn, RunStatus.PARKED)
    parked = (await reborn.view()).parked
    assert parked is not None
    assert parked.failure_class is FailureClass.UNKNOWN_OUTCOME
    await reborn.redrive(action="skip", result="it was paid", by="ann")

    assert await reborn.result(timeout_s=WITHIN_S) == "Paid, I am told."
    assert office.done("pay") == [f"pay slow-1 {run.id}:2"]
    assert office.model.requests[-1].messages[-1].text == "it was paid"


async def test_an_effect_that_a_person_lets_be_done_again_keeps_its_old_key(opened: Open):
    office = await opened(tool_call("pay", order_id="slow-2"), "Paid in the end.")
    run = await office.env.start("clerk", "Pay slowly.")
    await until(lambda: asyncio.to_thread(office.done, "pay"), bool)
    await killed(office, run)

    reborn = await office.holdfast.rebirth(run.id)
    await status_of(reborn, RunStatus.PARKED)
    (office.folder / "slow-2").touch()
    await reborn.redrive(by="ann")

    assert await reborn.result(timeout_s=WITHIN_S) == "Paid in the end."
    assert office.done("pay") == [f"pay slow-2 {run.id}:2"] * 2


async def test_a_model_call_in_the_air_at_the_death_is_unknown_spend_of_the_dead_run(opened: Open):
    asked = asyncio.Event()

    async def never(_request: ModelRequest) -> str:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    office = await opened(tool_call("find", order_id="W1"), never, "Found.")
    run = await office.env.start("clerk", "Find W1.")
    await asyncio.wait_for(asked.wait(), WITHIN_S)
    await killed(office, run)

    reborn = await office.holdfast.rebirth(run.id)

    assert await reborn.result(timeout_s=WITHIN_S) == "Found."
    assert len(office.model.requests) == 3
    dead, alive = (await run.show()).totals, (await reborn.show()).totals
    assert dead.unknown_usd > 0 == dead.reserved_usd
    assert alive.unknown_usd == 0


async def test_a_turn_that_was_half_done_is_done_to_its_end(opened: Open):
    both = calls(("pay", {"order_id": "A"}), ("settle", {"order_id": "B"}), ("pay", {"order_id": "C", "amount_usd": 80}))
    office = await opened(both, "All done.")
    run = await office.env.start("clerk", "Do all.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await until(run.steps, lambda steps: sum(step.kind == "tool" and step.done for step in steps) == 2)
    await killed(office, run)

    reborn = await office.holdfast.rebirth(run.id)
    await status_of(reborn, RunStatus.WAITING_APPROVAL)
    await reborn.approve(by="ann")

    assert await reborn.result(timeout_s=WITHIN_S) == "All done."
    assert sorted(line.split()[1] for line in office.done()) == ["A", "B", "C"]
    assert len(office.model.requests) == 2


async def test_a_sub_run_goes_on_where_it_was(opened: Open):
    office = await opened(
        tool_call("helper", request="Pay."), tool_call("find", order_id="W1"), tool_call("pay", order_id="slow-3"), "Paid.", "Done."
    )
    run = await office.env.start("clerk", "Have it paid.")
    await until(lambda: asyncio.to_thread(office.done, "pay"), bool)
    (office.folder / "slow-3").touch()
    await killed(office, run)

    reborn = await office.holdfast.rebirth(run.id)
    if (await until(reborn.status, lambda status: status is not RunStatus.RUNNING)) is not RunStatus.COMPLETED:
        await (await office.holdfast.get(f"{reborn.id}.2")).redrive(action="skip", result="paid")

    assert await reborn.result(timeout_s=WITHIN_S) == "Done."
    assert len(office.model.requests) == 5
    assert (len(office.done("find")), len(office.done("pay"))) == (1, 1)


async def test_a_dead_run_is_reborn_once_and_again_when_that_one_died_too(opened: Open):
    office = await opened(tool_call("pay", order_id="W1"), tool_call("pay", order_id="W2", amount_usd=80), "Paid.")
    run = await office.env.start("clerk", "Pay.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await killed(office, run)

    first, same = await asyncio.gather(office.holdfast.rebirth(run.id), office.holdfast.rebirth(run.id))
    await status_of(first, RunStatus.WAITING_APPROVAL)
    again = await office.holdfast.rebirth(run.id)
    await killed(office, first)
    second = await office.holdfast.rebirth(run.id)
    of_the_dead = await office.holdfast.rebirth(first.id)
    await status_of(second, RunStatus.WAITING_APPROVAL)
    await second.approve(by="ann")
    await second.result(timeout_s=WITHIN_S)

    assert {first.id, same.id, again.id} == {f"{run.id}-r1"}
    assert (second.id, of_the_dead.id) == (f"{run.id}-r2", f"{run.id}-r2")
    assert (await office.holdfast.rebirth(run.id)).id == second.id
    assert office.done("pay") == [f"pay W1 {run.id}:2", f"pay W2 {run.id}:4"]
    assert len(office.model.requests) == 3


async def test_a_run_that_failed_is_reborn_at_the_step_it_failed_at(opened: Open):
    office = await opened(tool_call("find", order_id="W1"), WRONG_KEY, "Found.")
    run = await office.env.start("clerk", "Find W1.")
    await status_of(run, RunStatus.PARKED)
    await run.redrive(action="abort", by="ann")
    await status_of(run, RunStatus.FAILED)

    reborn = await office.holdfast.rebirth(run.id)

    assert await reborn.result(timeout_s=WITHIN_S) == "Found."
    assert len(office.done("find")) == 1


async def test_a_result_that_a_person_had_yet_to_see_is_held_back_from_the_model_still(opened: Open):
    office = await opened(tool_call("quote", order_id="W1"), "It costs something.")
    run = await office.env.start("clerk", "What does it cost?")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await killed(office, run)

    reborn = await office.holdfast.rebirth(run.id)
    await status_of(reborn, RunStatus.WAITING_APPROVAL)
    (asked,) = (await reborn.view()).approvals
    await reborn.reject(by="ann", reason="a secret")

    assert await reborn.result(timeout_s=WITHIN_S) == "It costs something."
    assert asked.kind == "result"
    assert len(office.done("quote")) == 1
    assert "costs 7 USD" not in office.model.requests[1].messages[-1].text


async def test_a_run_whose_effects_were_undone_stays_dead(opened: Open):
    office = await opened(tool_call("book", order_id="W1"), WRONG_KEY)
    run = await office.env.start("clerk", "Book W1.")
    await status_of(run, RunStatus.PARKED)
    await run.redrive(action="abort", undo=True, by="ann")
    await status_of(run, RunStatus.FAILED)
    assert office.done() == ["book W1", "unbook W1"]

    with pytest.raises(RunStateError, match=r"step 2 .*\(book\) was undone.*--from-step 2"):
        await office.holdfast.rebirth(run.id)


async def test_what_the_dead_run_did_is_undone_with_the_reborn_one(opened: Open):
    office = await opened(tool_call("book", order_id="W1"), tool_call("pay", order_id="W1", amount_usd=80))
    run = await office.env.start("clerk", "Book W1.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await killed(office, run)
    reborn = await office.holdfast.rebirth(run.id)
    await status_of(reborn, RunStatus.WAITING_APPROVAL)

    await reborn.stop(undo=True, by="ann")
    await status_of(reborn, RunStatus.CANCELLED)

    assert office.done() == ["book W1", "unbook W1"]


async def test_a_founded_life_that_temporal_never_got_is_started_when_it_is_asked_for_again(opened: Open, database: Database):
    office = await opened(tool_call("find", order_id="W1"), WRONG_KEY, "Found.")
    run = await office.env.start("clerk", "Find W1.")
    await status_of(run, RunStatus.PARKED)
    await killed(office, run)
    pinned = (await run.show()).definition_hash
    half = NewFork(run.id, f"{run.id}-r1", ALL_STEPS, "rebirth", pinned, Decimal(1), "a client that died here")
    assert await found(database, half)

    reborn = await office.holdfast.rebirth(run.id)

    assert reborn.id == half.new
    assert await reborn.result(timeout_s=WITHIN_S) == "Found."
    assert not await found(database, half)


async def test_only_the_dead_are_reborn(opened: Open):
    office = await opened(tool_call("helper", request="Say a number."), "One.", tool_call("pay", order_id="W1", amount_usd=80), "No.")
    run = await office.env.start("clerk", "Say a number.")
    await status_of(run, RunStatus.WAITING_APPROVAL)

    with pytest.raises(RunStateError, match=r"is waiting approval and goes on"):
        await office.holdfast.rebirth(run.id)
    with pytest.raises(RunStateError, match=r"goes on: it must have been terminated"):
        await office.holdfast.rebirth(run.id, terminate=True)
    with pytest.raises(RunStateError, match=rf"is part of run {run.id}: let that one be reborn"):
        await office.holdfast.rebirth(f"{run.id}.2")
    await run.reject(by="ann")
    await run.result(timeout_s=WITHIN_S)
    with pytest.raises(RunStateError, match=r"is completed: only a run .*holdfast fork"):
        await office.holdfast.rebirth(run.id)
    with pytest.raises(UnknownRunError, match="nobody"):
        await office.holdfast.rebirth("nobody")


@contextlib.asynccontextmanager
async def serving(stack: RunningStack, queue: str, model: ScriptedModel) -> AsyncIterator[Orchestrator]:
    """A worker on a queue that another one served before."""
    settings = Settings(
        temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=stack.database_url, task_queue=queue
    )
    client = await connect_temporal(settings)
    async with Database.open(stack.database_url, max_size=5) as opened:
        parts = worker.Parts(database=opened, inference=(OneModel(model.name), {model.name: model}))
        async with worker.serving(client, queue, parts, folders=[AGENTS]):
            yield Orchestrator(Backend(settings=settings, temporal=client, database=opened, definitions=Definitions(opened)))


async def test_a_run_whose_history_cannot_be_replayed_any_more_goes_on_as_another(
    stack: RunningStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORKS_FOLDER", str(tmp_path))
    queue = f"stuck-{uuid.uuid4().hex[:8]}"
    both = ScriptedAnswer(calls=(("pay", {"order_id": "A"}), ("pay", {"order_id": "B", "amount_usd": 80})))
    model = ScriptedModel([both, "Both are paid."])
    with monkeypatch.context() as changed:
        changed.setattr(worker, "WORKFLOWS", (Hasty,))  # the version that is deployed first
        async with serving(stack, queue, model) as holdfast:
            run = await holdfast.start("clerk", "Pay both.")
            await status_of(run, RunStatus.WAITING_APPROVAL)
            await until(run.steps, lambda steps: any(step.kind == "tool" and step.done for step in steps))
    async with serving(stack, queue, model) as holdfast:
        await holdfast._backend.handle(run.id).signal("approve", {"by": "ann"})
        run = await holdfast.get(run.id)

        async def tried_in_vain() -> int:
            described = await holdfast._backend.handle(run.id).describe()
            return described.raw_description.pending_workflow_task.attempt

        await until(tried_in_vain, lambda attempt: attempt > 1)
        with pytest.raises(RunStateError, match="--terminate"):
            await holdfast.rebirth(run.id)
        reborn = await holdfast.rebirth(run.id, terminate=True)
        await status_of(reborn, RunStatus.WAITING_APPROVAL)
        await reborn.approve(by="ann")

        assert await reborn.result(timeout_s=WITHIN_S) == "Both are paid."
        assert await run.status() is RunStatus.TERMINATED
    done = [line for line in (tmp_path / "done").read_text().splitlines() if line.startswith("pay")]
    assert done == [f"pay A {run.id}:2", f"pay B {run.id}:3"]
    assert len(model.requests) == 2


async def test_two_lives_of_a_run_leave_one_memory(opened: Open, database: Database):
    office = await opened("Noted.")
    run = await office.env.start("diarist", "Remember me.", user=f"u-{uuid.uuid4().hex}")
    await run.result(timeout_s=WITHIN_S)
    life = NewFork(run.id, f"{run.id}-r1", ALL_STEPS, "rebirth", (await run.show()).definition_hash, Decimal(1), "a test")
    assert await found(database, life)

    for run_id in (life.new, "a stranger of it"):
        await memories.keep(database, tenant="default", scope="user", owner=run.id, run_id=run_id, text="again")

    kept = await database.fetch("select run_id from memories where run_id in ($1, $2) or owner = $1", run.id, life.new)
    assert sorted(row["run_id"] for row in kept) == ["a stranger of it", run.id]
    await database.execute("delete from memories where run_id = 'a stranger of it'")
