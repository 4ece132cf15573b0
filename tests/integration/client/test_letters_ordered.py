"""Steps that cannot go on, as people find them and let them go on: with edits, skipped, aborted, in bulk; and what they may not do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from activities.inference.providers.scripted import Scripted, ScriptedModel, tool_call
from client.dead_letters import CONFIRM_ABOVE
from client.run import Run
from state.dead_letter_lists import DeadLetter
from testkit.environment import AgentEnvironment
from tests.integration.client.conftest import AGENTS, WITHIN_S, WRONG_KEY, Open, status_of, until
from workflows.contracts.agents import Limits
from workflows.contracts.errors import (
    ArgumentsError,
    FailureClass,
    InvalidInputError,
    RunFailedError,
    RunStateError,
    UnknownAgentError,
    UnknownRunError,
)
from workflows.contracts.messages import ModelRequest, Role
from workflows.contracts.runs import RunStatus

STUCK = Path(__file__).with_name("stuck_agents")


async def parked(env: AgentEnvironment, agent: str = "desk", text: str = "x", **options: Any) -> tuple[Run, DeadLetter]:
    """A run that is parked, and its dead letter."""
    run = await env.start(agent, text, **options)
    return run, await letter_of(env, run)


async def letter_of(env: AgentEnvironment, run: Run) -> DeadLetter:
    found = await until(lambda: env.holdfast.dead_letters.list(run_id=run.id), lambda letters: len(letters) > 0)
    return found[-1]


async def settled(env: AgentEnvironment, letter: DeadLetter) -> DeadLetter:
    return await until(lambda: env.holdfast.dead_letters.show(letter.id), lambda found: found.state != "open")


def asked(env: AgentEnvironment) -> Sequence[ModelRequest]:
    assert isinstance(env.model, ScriptedModel)
    return env.model.requests


async def test_a_model_call_that_is_refused_is_filed_with_all_a_person_needs_and_goes_on_from_there(opened: Open):
    env = await opened(tool_call("find_order", order_id="W17"), WRONG_KEY, "At last.")
    run, letter = await parked(env, text="Where is W17?", user="ann", tenant="shop-1")

    assert (letter.failure_class, letter.cause, letter.step, letter.what) == ("caller", "the key is wrong", 3, "call_model smart")
    assert (letter.agent, letter.agent_version, letter.tenant, letter.user_id, letter.state) == ("desk", "1", "shop-1", "ann", "open")
    assert [(message["step"], message["role"]) for message in letter.input["messages"]] == [(0, "user"), (1, "assistant"), (2, "tool")]
    assert [(each["state"], each["failure_class"]) for each in letter.tried] == [("failed", "caller")]

    verdict = await env.holdfast.dead_letters.redrive(letter.id, by="ann", reason="the key is mended")

    assert verdict.outcome == "accepted"
    assert await run.result(timeout_s=WITHIN_S) == "At last."
    found = await settled(env, letter)
    assert (found.state, found.settled_by, found.reason) == ("redriven", "ann", "the key is mended")
    assert len(asked(env)) == 3, "what was paid before is not paid again"


async def test_an_order_for_a_letter_that_is_settled_is_late_and_changes_nothing(opened: Open):
    env = await opened(WRONG_KEY, WRONG_KEY, "At last.")
    run, first = await parked(env)
    await env.holdfast.dead_letters.redrive(first.id)
    await settled(env, first)
    second = await letter_of(env, run)

    with pytest.raises(RunStateError, match=rf"late: dead letter {first.letter} is settled already"):
        await env.holdfast.dead_letters.abort(first.id)

    assert second.letter != first.letter
    assert await run.status() is RunStatus.PARKED
    await env.holdfast.dead_letters.redrive(second.id)
    assert await run.result(timeout_s=WITHIN_S) == "At last."
    with pytest.raises(RunStateError, match="has ended"):
        await env.holdfast.dead_letters.redrive(second.id)


async def test_limits_are_changed_by_name_and_the_others_stay(opened: Open):
    env = await opened(tool_call("find_order", order_id="W1"), tool_call("find_order", order_id="W2"), "Done.")
    run, letter = await parked(env, limits=Limits(steps=2, calls=7))
    assert letter.failure_class == FailureClass.LIMIT

    with pytest.raises(InvalidInputError, match="no limit 'step'; there are steps"):
        await env.holdfast.dead_letters.redrive(letter.id, limits={"step": 9})
    await env.holdfast.dead_letters.redrive(letter.id, limits={"steps": "9"})

    assert await run.result(timeout_s=WITHIN_S) == "Done."
    assert (await run.view()).limits == Limits(steps=9, calls=7)


async def test_other_instructions_are_a_version_of_their_own_and_change_no_other_run(opened: Open):
    env = await opened(WRONG_KEY, "Yes.", "No.")
    run, letter = await parked(env)

    await env.holdfast.dead_letters.redrive(letter.id, instructions="You answer in one word.", model="fast")

    assert await run.result(timeout_s=WITHIN_S) == "Yes."
    assert asked(env)[-1].messages[0].text.startswith("You answer in one word.")
    assert asked(env)[-1].model == "fast"
    await env.run("desk", "x", timeout_s=WITHIN_S)
    assert asked(env)[-1].messages[0].text.startswith("You answer customers of a shop.")


async def test_a_run_goes_on_with_another_version_of_its_agent(opened: Open, tmp_path: Path):
    for name in ("desk.yaml", "helper.yaml", "tools.py"):
        (tmp_path / name).write_text((AGENTS / name).read_text())
    env = await opened(WRONG_KEY, "Yes.", agents=tmp_path)
    run, letter = await parked(env)
    changed = (tmp_path / "desk.yaml").read_text().replace("version: 1", "version: 2").replace("customers of a shop", "in rhymes")
    (tmp_path / "desk.yaml").write_text(changed)
    await until(env.holdfast.agents, lambda agents: any(agent.version == "2" for agent in agents if agent.name == "desk"))

    with pytest.raises(UnknownAgentError, match="No version or hash '3'"):
        await env.holdfast.dead_letters.redrive(letter.id, agent_version="3")
    await env.holdfast.dead_letters.redrive(letter.id, agent_version="current")

    assert await run.result(timeout_s=WITHIN_S) == "Yes."
    assert asked(env)[-1].messages[0].text.startswith("You answer in rhymes.")


async def test_another_input_takes_the_place_of_the_first(opened: Open):
    env = await opened(WRONG_KEY, "Yes.")
    run, letter = await parked(env, text="Where is W71?")

    await env.holdfast.dead_letters.redrive(letter.id, input="Where is W17?")

    assert await run.result(timeout_s=WITHIN_S) == "Yes."
    assert [message.text for message in asked(env)[-1].messages if message.role is Role.USER] == ["Where is W17?"]


async def test_a_tool_call_of_unknown_outcome_is_filed_with_its_arguments_and_skipped_with_what_it_gave(opened: Open):
    env = await opened(tool_call("charge", order_id="C1", fail="true"), "Charged.", agents=STUCK)
    run, letter = await parked(env, "till")

    assert (letter.failure_class, letter.tool, letter.what) == ("unknown_outcome", "charge", "run_tool charge")
    assert letter.input["name"] == "charge"
    assert json.loads(letter.input["arguments"]) == {"order_id": "C1", "fail": "true"}
    assert [(each["tool"], each["state"], each["attempts"]) for each in letter.tried] == [("charge", "unknown", 1)]
    assert list(letter.chain) == ["ConnectionResetError: cut off in the middle"]

    await env.holdfast.dead_letters.skip(letter.id, "C1 was charged", by="ann", reason="asked the bank")

    assert await run.result(timeout_s=WITHIN_S) == "Charged."
    assert [message.text for message in asked(env)[-1].messages if message.role is Role.TOOL] == ["C1 was charged"]
    found = await settled(env, letter)
    assert (found.state, found.settled_by, found.result) == ("skipped", "ann", "C1 was charged")
    assert await ledger(env, run) == [("succeeded", "done", "ann")]


async def test_an_effect_that_was_not_done_is_said_so_to_the_model_and_in_the_ledger(opened: Open):
    env = await opened(tool_call("charge", order_id="C2", fail="true"), "Not charged.", agents=STUCK)
    run, letter = await parked(env, "till")

    await env.holdfast.dead_letters.not_done(letter.id, by="ann")

    assert await run.result(timeout_s=WITHIN_S) == "Not charged."
    told = next(message for message in asked(env)[-1].messages if message.role is Role.TOOL)
    assert told.is_error
    await settled(env, letter)
    assert await ledger(env, run) == [("failed", "not_done", "ann")]


async def ledger(env: AgentEnvironment, run: Run) -> list[tuple[str, str, str]]:
    rows = await env.holdfast._backend.database.fetch(
        "select e.state, r.ruling, r.ruled_by from effects e left join effect_rulings r using (tenant, tool, key) where e.run_id = $1",
        run.id,
    )
    return [tuple(row) for row in rows]


async def test_arguments_are_held_against_the_tools_schema_and_used_for_the_retry(opened: Open):
    env = await opened(tool_call("charge", order_id="C3", fail="true"), "Charged.", agents=STUCK)
    run, letter = await parked(env, "till")

    with pytest.raises(ArgumentsError, match="charge: the arguments: 'order_id' is a required property"):
        await env.holdfast.dead_letters.redrive(letter.id, arguments={"fail": "false"})
    await env.holdfast.dead_letters.redrive(letter.id, arguments={"order_id": "C3", "fail": "false"})

    assert await run.result(timeout_s=WITHIN_S) == "Charged."
    result = next(message.text for message in asked(env)[-1].messages if message.role is Role.TOOL)
    assert "C3 charged" in result


async def test_an_aborted_run_fails_with_its_cause_and_its_letter_says_who_gave_it_up(opened: Open):
    env = await opened(WRONG_KEY)
    run, letter = await parked(env)

    await env.holdfast.dead_letters.abort(letter.id, by="ann", reason="nobody needs it")

    with pytest.raises(RunFailedError, match="the key is wrong"):
        await run.result(timeout_s=WITHIN_S)
    found = await settled(env, letter)
    assert (found.state, found.settled_by, found.reason) == ("aborted", "ann", "nobody needs it")


async def test_what_a_run_has_open_when_it_is_cancelled_is_withdrawn(opened: Open):
    env = await opened(WRONG_KEY)
    run, letter = await parked(env)

    await run.cancel()

    assert (await settled(env, letter)).state == "withdrawn"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"action": "skip", "model": "fast"}, "model goes with retry, not with skip"),
        ({"result": "x"}, "result goes with skip, not with retry"),
        ({"undo": True}, "undo goes with abort, not with retry"),
        ({"instructions": " "}, "instructions are empty"),
        ({"action": "again"}, "action: Input should be"),
        ({"input": "x" * 70_000}, "input: String should have at most"),
        ({"limits": {"steps": "many"}}, "limits: steps: "),
    ],
)
async def test_an_order_that_cannot_be_meant_is_refused_before_it_is_sent(opened: Open, options: dict[str, Any], problem: str):
    env = await opened(WRONG_KEY)
    run, letter = await parked(env)
    with pytest.raises(InvalidInputError, match=problem):
        await env.holdfast.dead_letters.redrive(letter.id, **options)
    assert await run.status() is RunStatus.PARKED


async def test_a_letter_that_does_not_exist_is_told_with_those_there_are(opened: Open):
    env = await opened(WRONG_KEY)
    run, letter = await parked(env)
    letters = env.holdfast.dead_letters

    assert (await letters.show(run.id)).id == letter.id
    with pytest.raises(InvalidInputError, match=f"of this run there are {letter.id}"):
        await letters.show(f"{run.id}:99")
    with pytest.raises(InvalidInputError, match="has no dead letter 99"):
        await letters.redrive(f"{run.id}:99")
    with pytest.raises(UnknownRunError):
        await letters.redrive("nobody:1")
    for wrong in ("", ":1", f"{run.id}:one", f"{run.id}:1:2"):
        with pytest.raises(InvalidInputError, match="names no dead letter"):
            await letters.show(wrong)
    with pytest.raises(InvalidInputError, match=r"no failure class 'quotas'; there are throttled, "):
        await letters.list(failure_class="quotas")


async def many(opened: Open, count: int) -> tuple[AgentEnvironment, str, list[Run]]:
    """Parked runs of a tenant of their own; from then on the model answers."""
    broken = [True]

    def answer(_request: ModelRequest) -> Scripted:
        return WRONG_KEY if broken[0] else "Done."

    env = await opened(*[answer] * 10 * count)
    tenant = f"many-{id(env)}"
    runs: list[Run] = []
    while len(runs) < count:  # a few at once: the environment's pool is small
        some = [await env.start("desk", "x", tenant=tenant) for _ in range(min(6, count - len(runs)))]
        for run in some:
            await letter_of(env, run)
        runs += some
    broken[0] = False
    return env, tenant, runs


async def test_an_order_for_many_is_tried_first_confirmed_and_given_to_each_once(opened: Open):
    count = CONFIRM_ABOVE + 1
    env, tenant, runs = await many(opened, count)
    letters = env.holdfast.dead_letters

    nothing = await letters.bulk({"tenant": tenant, "failure_class": "quota"})
    assert (nothing.matched, nothing.ordered) == (0, 0)
    dry = await letters.bulk({"tenant": tenant}, dry_run=True)
    assert (dry.matched, dry.ordered, dry.dry_run) == (count, 0, True)
    assert await letters.count(tenant=tenant) == count
    with pytest.raises(InvalidInputError, match=f"{count} dead letters fit, more than {CONFIRM_ABOVE}"):
        await letters.bulk({"tenant": tenant})
    with pytest.raises(InvalidInputError, match="arguments are for one tool call"):
        await letters.bulk({"tenant": tenant}, arguments={"order_id": "1"}, confirmed=True)
    with pytest.raises(InvalidInputError, match="rate_per_s must be above 0"):
        await letters.bulk({"tenant": tenant}, rate_per_s=0)
    seen: list[int] = []

    report = await letters.bulk({"tenant": tenant}, confirmed=True, rate_per_s=500, progress=seen.append, by="ann")

    assert (report.matched, report.ordered, report.late, report.failed, report.refused) == (count, count, 0, 0, 0)
    assert report.done + report.left == count
    assert seen[-1] == count
    assert set(await asyncio.gather(*(run.result(timeout_s=WITHIN_S) for run in runs))) == {"Done."}
    await until(lambda: letters.count(tenant=tenant, state="redriven"), lambda found: found == count)
    again = await letters.bulk({"tenant": tenant}, confirmed=True)
    assert (again.matched, again.ordered) == (0, 0)


async def test_two_orders_for_the_same_many_at_once_give_each_run_one(opened: Open):
    count = 12
    env, tenant, runs = await many(opened, count)
    letters = env.holdfast.dead_letters

    reports = await asyncio.gather(*(letters.bulk({"tenant": tenant}, confirmed=True, rate_per_s=500, by=by) for by in ("ann", "bob")))

    assert sum(report.failed + report.refused for report in reports) == 0
    assert set(await asyncio.gather(*(run.result(timeout_s=WITHIN_S) for run in runs))) == {"Done."}
    await until(lambda: letters.count(tenant=tenant), lambda found: found == 0)
    closed = await env.holdfast._backend.database.fetch(
        "select run_id, count(*) as times from decisions where tenant = $1 and closes group by run_id", tenant
    )
    assert [row["times"] for row in closed] == [1] * count


async def test_many_have_one_that_was_ended_from_outside_and_it_is_told(opened: Open):
    env = await opened(*[WRONG_KEY] * 2, *["Done."] * 2)
    tenant = f"outside-{id(env)}"
    (gone, its), (run, _) = [await parked(env, tenant=tenant) for _ in range(2)]
    await env.client.get_workflow_handle(gone.id).terminate(reason="by hand")
    await status_of(gone, RunStatus.TERMINATED)

    report = await env.holdfast.dead_letters.bulk({"tenant": tenant}, by="ann")

    assert (report.matched, report.ordered, report.failed) == (2, 1, 1)
    assert report.problems[0].id == its.id
    assert "terminated" in report.problems[0].why
    assert await run.result(timeout_s=WITHIN_S) == "Done."
    found = await env.holdfast.dead_letters.show(its.id)
    assert (found.state, found.settled_by, found.reason) == ("withdrawn", "ann", "the run has ended: terminated")


async def test_an_order_that_runs_refuse_is_told_with_their_reason(opened: Open):
    env = await opened(WRONG_KEY, "Done.")
    tenant = f"refused-{id(env)}"
    run, letter = await parked(env, tenant=tenant)

    report = await env.holdfast.dead_letters.bulk({"tenant": tenant}, action="skip", result="x", by="ann")

    assert (report.ordered, report.refused, report.left) == (1, 1, 0)
    assert report.problems[0].id == letter.id
    assert "only a tool call can be passed over" in report.problems[0].why
    await run.redrive()
    assert await run.result(timeout_s=WITHIN_S) == "Done."


async def test_an_effect_left_behind_by_a_run_is_found_out_by_hand(opened: Open):
    env = await opened(tool_call("charge", order_id="C4", fail="true"), agents=STUCK)
    run, letter = await parked(env, "till")
    await env.holdfast.dead_letters.abort(letter.id)
    with pytest.raises(RunFailedError):
        await run.result(timeout_s=WITHIN_S)
    left = await letter_of(env, run)

    assert (left.letter < 0, left.failure_class, left.tool) == (True, "unknown_outcome", "charge")
    with pytest.raises(RunStateError, match="has ended: say what became of its charge"):
        await env.holdfast.dead_letters.redrive(left.id)
    await env.holdfast.dead_letters.skip(left.id, "charged", by="ann")

    assert (await env.holdfast.dead_letters.show(left.id)).state == "skipped"
    assert await ledger(env, run) == [("succeeded", "done", "ann")]
    with pytest.raises(RunStateError, match="is settled already"):
        await env.holdfast.dead_letters.not_done(left.id)
