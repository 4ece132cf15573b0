"""A fork walks recorded steps again without paying or doing them again, and goes its own way from its step on."""

from __future__ import annotations

from decimal import Decimal

import pytest

from activities.inference.providers.scripted import ScriptedAnswer, tool_call
from state.pool import Database
from tests.integration.client.conftest import status_of, until
from tests.integration.forks.conftest import WITHIN_S, Office, Open, calls
from workflows.contracts.errors import ArgumentsError, InvalidInputError, RunStateError, UnknownAgentError, UnknownRunError
from workflows.contracts.provider_settings import ModelSettings
from workflows.contracts.runs import RunStatus

SMALL_WINDOW = ModelSettings(context_window_tokens=3_000, input_usd_per_million=Decimal(1), output_usd_per_million=Decimal(4))


def find_at_length(words: str) -> ScriptedAnswer:
    """A call, with so much said that a few of them fill the window."""
    return ScriptedAnswer(text=words, calls=(("find", {"order_id": "W1"}),))


async def answer_of(office: Office, run_id: str, from_step: int, **changes: object) -> tuple[str, str]:
    """The fork's id and answer."""
    made = await office.holdfast.fork(run_id, from_step, **changes)  # type: ignore[arg-type]  # each test gives what it changes
    return made.id, await made.result(timeout_s=WITHIN_S)


async def test_a_fork_at_a_model_step_asks_that_step_anew_and_pays_for_nothing_before_it(opened: Open):
    office = await opened(tool_call("find", order_id="W1"), tool_call("pay", order_id="W1"), "Paid.", "Paid, as you see.")
    run = await office.ended("clerk", "Pay W1.")

    forked, answer = await answer_of(office, run.id, 5, instructions="Be wordy.")

    assert answer == "Paid, as you see."
    assert len(office.model.requests) == 4
    first, again = office.model.requests[2], office.model.requests[3]
    assert again.messages[0].text == "Be wordy."
    assert again.messages[1:] == first.messages[1:]
    assert (len(office.done("find")), len(office.done("pay"))) == (1, 1)
    old, new = await run.show(), await (await office.holdfast.get(forked)).show()
    assert new.origin == f"forked from {run.id} at step 5"
    assert [step.shared for step in new.steps if step.kind == "model"] == [True, True, False]
    assert new.totals.cost_usd == new.steps[-1].cost_usd > 0
    assert new.totals.cost_usd < old.totals.cost_usd
    assert new.totals.attempts == 1


async def test_a_fork_at_a_tool_step_does_it_under_a_key_of_its_own(opened: Open):
    office = await opened(tool_call("pay", order_id="W1"), "Paid.", "Paid twice.")
    run = await office.ended("clerk", "Pay W1.")

    forked, answer = await answer_of(office, run.id, 2)

    assert answer == "Paid twice."
    assert len(office.model.requests) == 3
    assert office.done("pay") == [f"pay W1 {run.id}:2", f"pay W1 {forked}:2"]


async def test_a_fork_at_the_first_step_shares_the_input_alone(opened: Open):
    office = await opened("One.", "Two.")
    run = await office.ended("clerk", "Say a number.")

    _, answer = await answer_of(office, run.id, 1)

    assert answer == "Two."
    assert office.model.requests[0].messages == office.model.requests[1].messages


async def test_a_fork_inside_a_parallel_turn_does_only_the_calls_from_its_step_on(opened: Open):
    three = calls(("pay", {"order_id": "A"}), ("pay", {"order_id": "B"}), ("pay", {"order_id": "C"}))
    office = await opened(three, "All paid.", "Some paid again.")
    run = await office.ended("clerk", "Pay all.")

    _, answer = await answer_of(office, run.id, 3)

    assert answer == "Some paid again."
    assert sorted(line.split()[1] for line in office.done("pay")) == ["A", "B", "B", "C", "C"]
    assert len(office.model.requests) == 3


async def test_malformed_calls_and_answers_are_shared_and_park_nobody_twice(opened: Open):
    office = await opened(calls(("find", {"order_id": "A"}), ("nothing", {})), "", "There.", "There again.", "And again.")
    run = await office.env.start("clerk", "Find A.")
    await status_of(run, RunStatus.PARKED)  # two malformed answers in a row, where one is allowed
    await run.redrive()
    await run.result(timeout_s=WITHIN_S)

    _, in_the_turn = await answer_of(office, run.id, 2)
    _, at_the_end = await answer_of(office, run.id, 5)

    assert (in_the_turn, at_the_end) == ("There again.", "And again.")
    original, second, third = (office.model.requests[place].messages for place in (1, 3, 4))
    assert second == original
    assert [message.text for message in third] == [message.text for message in office.model.requests[2].messages]
    assert len(office.done("find")) == 2


async def test_a_sub_run_before_the_step_is_shared_whole(opened: Open):
    office = await opened(tool_call("helper", request="Pay W1."), tool_call("pay", order_id="W1"), "It is paid.", "Done.", "Done, too.")
    run = await office.ended("clerk", "Have W1 paid.")

    forked, answer = await answer_of(office, run.id, 3)

    assert answer == "Done, too."
    assert len(office.model.requests) == 5
    assert len(office.done("pay")) == 1
    report = await (await office.holdfast.get(forked)).show()
    (child,) = report.sub_runs
    assert (child.id, child.parent_run_id) == (f"{forked}.2", forked)
    assert all(step.shared for step in child.steps if step.kind == "model")
    assert (child.totals.cost_usd, report.totals.cost_usd) == (0, report.steps[-1].cost_usd)


async def test_a_fork_at_a_sub_run_runs_it_anew(opened: Open):
    office = await opened(
        tool_call("helper", request="Pay W1."), "Paid.", "Done.", tool_call("pay", order_id="W2"), "Paid, really.", "Done."
    )
    run = await office.ended("clerk", "Have W1 paid.")

    forked, _ = await answer_of(office, run.id, 2)

    assert len(office.model.requests) == 6
    assert [message.text for message in office.model.requests[3].messages[1:]] == ["Pay W1."]
    assert office.done("pay") == [f"pay W2 {forked}.2:2"]


async def test_a_summary_is_shared_where_the_run_had_no_room_any_more(opened: Open):
    long = "a long tale " * 280
    office = await opened(
        find_at_length(long), find_at_length(long), find_at_length(long), "A summary.", "The end.", "Another end.", price=SMALL_WINDOW
    )
    run = await office.ended("clerk", "Find things.")
    steps = await run.steps()
    summary = next(step.step for step in steps if step.kind == "summary")

    forked, answer = await answer_of(office, run.id, steps[-1].step)

    assert answer == "Another end."
    assert len(office.model.requests) == 6
    assert office.model.requests[5].messages == office.model.requests[4].messages
    again = await (await office.holdfast.get(forked)).steps()
    assert [(step.step, step.shared) for step in again if step.kind == "summary"] == [(summary, True)]


async def test_a_conversation_that_was_handed_over_stays_with_the_one_who_has_it(opened: Open):
    office = await opened(tool_call("hand_over_to_billing", reason="money"), tool_call("pay", order_id="W1"), "Settled.", "Settled anew.")
    run = await office.ended("clerk", "Settle W1.")

    forked, answer = await answer_of(office, run.id, 5)

    assert answer == "Settled anew."
    assert office.model.requests[3] == office.model.requests[2].model_copy(update={"idempotency_key": f"{forked}:5"})
    assert (await (await office.holdfast.get(forked)).steps())[-1].agent == "billing"
    assert len(office.done("pay")) == 1


async def test_a_fork_has_the_memories_of_its_run_and_no_newer_ones(opened: Open):
    office = await opened("First.", "Second.", "Third.", "Fork.")
    await office.ended("diarist", "one", user="forgetful")
    run = await office.ended("diarist", "two", user="forgetful")
    await office.ended("diarist", "three", user="forgetful")

    _, answer = await answer_of(office, run.id, 1)

    assert answer == "Fork."
    assert office.model.requests[3].messages == office.model.requests[1].messages
    assert "Asked: one" in office.model.requests[3].messages[1].text


async def test_what_a_person_said_yes_to_is_not_asked_again(opened: Open):
    office = await opened(tool_call("pay", order_id="W1", amount_usd=80), "Paid.", "Paid, as I said.")
    run = await office.env.start("clerk", "Pay 80.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await run.approve(by="ann")
    await run.result(timeout_s=WITHIN_S)

    _, answer = await answer_of(office, run.id, 3)

    assert answer == "Paid, as I said."
    assert len(office.done("pay")) == 1


async def test_what_comes_after_the_step_is_asked_again(opened: Open):
    office = await opened(tool_call("pay", order_id="W1", amount_usd=80), "Paid.", "Not paid.")
    run = await office.env.start("clerk", "Pay 80.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await run.approve(by="ann")
    await run.result(timeout_s=WITHIN_S)

    forked = await office.holdfast.fork(run.id, 2)
    await status_of(forked, RunStatus.WAITING_APPROVAL)
    await forked.reject(by="ann", reason="once is enough")

    assert await forked.result(timeout_s=WITHIN_S) == "Not paid."
    assert len(office.done("pay")) == 1


async def test_a_call_is_made_with_other_arguments_and_asks_a_person_by_those(opened: Open):
    office = await opened(tool_call("pay", order_id="W1"), "Paid 1.", "Paid 90.")
    run = await office.ended("clerk", "Pay W1.")

    forked = await office.holdfast.fork(run.id, 2, arguments={"order_id": "W1", "amount_usd": 90})
    await status_of(forked, RunStatus.WAITING_APPROVAL)
    (asked,) = (await forked.view()).approvals
    await forked.approve(by="ann")

    assert await forked.result(timeout_s=WITHIN_S) == "Paid 90."
    assert '"amount_usd":90' in asked.preview
    assert "W1: 90 USD are paid" in office.model.requests[2].messages[-1].text


async def test_arguments_that_fit_no_schema_are_refused_before_anything_is_written(opened: Open, database: Database):
    office = await opened(tool_call("pay", order_id="W1"), "Paid.")
    run = await office.ended("clerk", "Pay W1.")

    with pytest.raises(ArgumentsError, match=r"schema of pay: amount_usd: 'much' is not"):
        await office.holdfast.fork(run.id, 2, arguments={"order_id": "W1", "amount_usd": "much"})
    with pytest.raises(InvalidInputError, match=r"step 3 of run .* is no tool call"):
        await office.holdfast.fork(run.id, 3, arguments={})

    assert await database.fetchval("select count(*) from runs where forked_from = $1", run.id) == 0


async def test_a_business_key_is_shared_with_the_run_that_was_forked(opened: Open):
    office = await opened(tool_call("refund", order_id="biz-1"), "Back.", "Back already.")
    run = await office.ended("clerk", "Refund it.")

    _, answer = await answer_of(office, run.id, 2)

    assert answer == "Back already."
    assert office.done("refund biz-1") == ["refund biz-1"]
    assert "biz-1 is paid back" in office.model.requests[2].messages[-1].text


async def test_shared_steps_count_for_no_limit_and_new_ones_do(opened: Open):
    office = await opened(*(tool_call("find", order_id=f"W{place}") for place in range(4)), "Found.", "Found again.")
    run = await office.ended("clerk", "Find them.")

    forked = await office.holdfast.fork(run.id, 9, limits={"steps": 1, "calls": 1, "tokens": 100_000})
    outcome = await forked.outcome(timeout_s=WITHIN_S)

    assert (outcome.totals.calls, outcome.totals.steps) == (1, 1)
    assert outcome.totals.cost_usd == (await forked.show()).totals.cost_usd


async def test_a_fork_may_be_asked_something_else_by_another_model(opened: Open):
    office = await opened(tool_call("find", order_id="W1"), "It is delivered.", "Es ist geliefert.")
    run = await office.ended("clerk", "Where is W1?")

    forked, _ = await answer_of(office, run.id, 3, input="Wo ist W1?", model="fast")

    asked = office.model.requests[2]
    assert (asked.model, asked.messages[1].text) == ("fast", "Wo ist W1?")
    assert (await run.show()).steps[0].preview == "Where is W1?"
    assert (await (await office.holdfast.get(forked)).show()).steps[0].preview == "Wo ist W1?"


async def test_a_step_that_was_undone_is_shared_with_nobody(opened: Open):
    office = await opened(tool_call("book", order_id="W1"), tool_call("pay", order_id="W1", amount_usd=80), "Booked anew.")
    run = await office.env.start("clerk", "Book W1.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await run.stop(undo=True, by="ann")
    await status_of(run, RunStatus.CANCELLED)
    assert office.done() == ["book W1", "unbook W1"]

    with pytest.raises(RunStateError, match=rf"step 2 of run {run.id} did \(book\) was undone.*holdfast fork {run.id} --from-step 2"):
        await office.holdfast.fork(run.id, 3)
    forked = await office.holdfast.fork(run.id, 2)

    await status_of(forked, RunStatus.COMPLETED)
    assert office.done() == ["book W1", "unbook W1", "book W1"]


async def test_a_fork_undoes_what_it_did_itself_and_nothing_that_it_shares(opened: Open):
    office = await opened(
        tool_call("book", order_id="W1"), "Booked.", tool_call("book", order_id="W2"), tool_call("pay", order_id="W3", amount_usd=80)
    )
    run = await office.ended("clerk", "Book W1.")
    forked = await office.holdfast.fork(run.id, 3)
    await status_of(forked, RunStatus.WAITING_APPROVAL)

    await forked.stop(undo=True, by="ann")
    await status_of(forked, RunStatus.CANCELLED)

    assert office.done() == ["book W1", "book W2", "unbook W2"]


async def test_what_people_told_the_agent_is_among_what_is_shared(opened: Open):
    office = await opened(tool_call("pay", order_id="W1", amount_usd=80), "As you say.", "As you said.")
    run = await office.env.start("clerk", "Pay 80.")
    await status_of(run, RunStatus.WAITING_APPROVAL)
    await run.instruct("Be quick.", by="ann")
    await run.reject(by="ann", reason="too much")
    await run.result(timeout_s=WITHIN_S)

    _, answer = await answer_of(office, run.id, 3)

    assert answer == "As you said."
    assert office.model.requests[2].messages == office.model.requests[1].messages
    assert office.model.requests[2].messages[-1].text.endswith("Be quick.")


async def test_a_result_that_a_person_has_let_pass_or_withheld_stays_so(opened: Open):
    office = await opened(calls(("quote", {"order_id": "A"}), ("quote", {"order_id": "B"})), "Told.", "Told again.")
    run = await office.env.start("clerk", "What do they cost?")
    asked = await until(run.view, lambda view: len(view.approvals) == 2)
    await run.approve(asked.approvals[0].call_id, by="ann")
    await run.reject(asked.approvals[1].call_id, by="ann", reason="a secret")
    await run.result(timeout_s=WITHIN_S)

    _, answer = await answer_of(office, run.id, 4)

    assert answer == "Told again."
    told = [message.text for message in office.model.requests[2].messages[-2:]]
    assert told == [message.text for message in office.model.requests[1].messages[-2:]]
    assert sum("costs 7 USD" in text for text in told) == sum("a secret" in text for text in told) == 1
    assert len(office.done("quote")) == 2


async def test_a_fork_can_be_forked(opened: Open):
    office = await opened(tool_call("pay", order_id="W1"), "One.", "Two.", "Three.")
    run = await office.ended("clerk", "Pay W1.")
    forked, _ = await answer_of(office, run.id, 3)

    again, answer = await answer_of(office, forked, 3)

    assert answer == "Three."
    assert len(office.done("pay")) == 1
    assert (await (await office.holdfast.get(again)).show()).origin == f"forked from {forked} at step 3"


async def test_a_run_that_goes_on_is_forked_up_to_its_first_open_step(opened: Open):
    office = await opened(tool_call("pay", order_id="W1", amount_usd=80), "No.", "Nothing to pay.")
    run = await office.env.start("clerk", "Pay 80.")
    await status_of(run, RunStatus.WAITING_APPROVAL)

    with pytest.raises(InvalidInputError, match=r"step 3; step 2 has no result yet\. Its steps are: 1 model smart, 2 tool pay\."):
        await office.holdfast.fork(run.id, 3)
    _, answer = await answer_of(office, run.id, 1)
    await run.reject(by="ann")

    assert {answer, await run.result(timeout_s=WITHIN_S)} == {"No.", "Nothing to pay."}


async def test_a_wrong_step_a_wrong_run_and_a_wrong_version_say_what_there_is(opened: Open):
    office = await opened("One.")
    run = await office.ended("clerk", "Say a number.")

    for step in (0, 2, -1):
        with pytest.raises(InvalidInputError, match=rf"cannot be forked at step {step}\. Its steps are: 1 model smart\."):
            await office.holdfast.fork(run.id, step)
    with pytest.raises(UnknownRunError, match="nobody"):
        await office.holdfast.fork("nobody", 1)
    with pytest.raises(UnknownAgentError, match=r"No version or hash '7' of agent 'clerk'.*1"):
        await office.holdfast.fork(run.id, 1, agent_version="7")
    with pytest.raises(InvalidInputError, match="limits: there is no limit 'stepps'"):
        await office.holdfast.fork(run.id, 1, limits={"stepps": 3})


async def test_a_sub_run_is_forked_as_a_run_of_its_own(opened: Open):
    office = await opened(tool_call("helper", request="Pay W1."), tool_call("pay", order_id="W1"), "Paid.", "Done.", "Paid, I said.")
    run = await office.ended("clerk", "Have W1 paid.")

    forked, answer = await answer_of(office, f"{run.id}.2", 3)

    assert (answer, forked.split("-")[0]) == ("Paid, I said.", "helper")
    report = await (await office.holdfast.get(forked)).show()
    assert (report.parent_run_id, report.origin) == (None, f"forked from {run.id}.2 at step 3")
    assert len(office.done("pay")) == 1


async def test_a_fork_by_an_id_of_ones_own_is_made_once(opened: Open):
    office = await opened(tool_call("find", order_id="W1"), "One.", "Two.")
    run = await office.ended("clerk", "Say a number.")
    name = f"{run.id}-mine"

    first = await answer_of(office, run.id, 3, new_run_id=name)
    second = await answer_of(office, run.id, 3, new_run_id=name)
    with pytest.raises(RunStateError, match=f"The id {name} is another run's"):
        await office.holdfast.fork(run.id, 1, new_run_id=name)

    assert first == second == (name, "Two.")
    assert len(office.model.requests) == 3


async def test_the_list_and_the_details_tell_whence_a_run_is(opened: Open):
    office = await opened("One.", "Two.")
    run = await office.ended("clerk", "Say a number.", user=f"user-{id(office)}", tenant="forks")
    forked, _ = await answer_of(office, run.id, 1)

    described = await office.env.client.get_workflow_handle(forked).describe()
    listed = {}
    for _ in range(100):
        listed = {each.id: each.origin for each in await office.holdfast.list(user=f"user-{id(office)}", tenant="forks")}
        if len(listed) == 2:
            break

    assert listed == {run.id: None, forked: f"forked from {run.id} at step 1"}
    assert f"forked from {run.id} at step 1" in (await described.static_details() or "")


async def test_two_runs_are_put_side_by_side(opened: Open):
    office = await opened(
        tool_call("find", order_id="W1"), tool_call("pay", order_id="W1"), "Paid.", tool_call("find", order_id="W2"), "Found."
    )
    run = await office.ended("clerk", "Pay W1.")
    forked, _ = await answer_of(office, run.id, 3)

    found = await office.holdfast.compare(run.id, forked)

    assert [step.likeness for step in found.steps] == ["same", "same", "same", "changed", "changed", "changed"]
    assert found.parted_at == 3
    assert (found.a.answer, found.b.answer) == ("Paid.", "Found.")
    assert found.a.cost_usd > found.b.cost_usd > Decimal(0)
    assert found.b.origin == f"forked from {run.id} at step 3"
    assert [step.b.shared for step in found.steps if step.b and step.b.kind == "model"] == [True, False, False]


async def test_steps_that_one_run_alone_has_are_told_as_such(opened: Open):
    office = await opened(tool_call("find", order_id="W1"), "Found.", "Quick.")
    run = await office.ended("clerk", "Find W1.")
    forked, _ = await answer_of(office, run.id, 1)

    assert [step.likeness for step in (await office.holdfast.compare(run.id, forked)).steps] == ["same", "changed", "only_a", "only_a"]
    assert [step.likeness for step in (await office.holdfast.compare(forked, run.id)).steps] == ["same", "changed", "only_b", "only_b"]
    assert (await office.holdfast.compare(run.id, run.id)).parted_at is None


async def test_shared_answers_are_in_no_cost_report(opened: Open):
    office = await opened(tool_call("find", order_id="W1"), "Found.", "Found again.")
    run = await office.ended("clerk", "Find W1.")
    forked, _ = await answer_of(office, run.id, 3)

    (old,), (new,) = [(await office.holdfast.costs("run", run=each)).lines for each in (run.id, forked)]

    assert (old.calls, new.calls) == (2, 1)
    assert new.cost_usd == (await (await office.holdfast.get(forked)).show()).totals.cost_usd


async def test_an_answer_from_the_cache_is_shared_like_any_other(opened: Open, database: Database):
    office = await opened(tool_call("find", order_id="W1"), "Found.", "Found again.")
    run = await office.ended("clerk", "Find W1.")
    stored = "update model_calls set cache = 'exact', turn = turn || '{\"cached\": \"exact\"}' where run_id = $1 and step = 1"
    await database.execute(stored, run.id)

    forked, answer = await answer_of(office, run.id, 3)

    assert answer == "Found again."
    model, *_ = [step for step in await (await office.holdfast.get(forked)).steps() if step.kind == "model"]
    assert (model.cached, model.shared, model.cost_usd) == ("exact", True, 0)


async def test_a_run_that_can_wait_finds_its_shared_answers_without_a_batch(opened: Open):
    office = await opened(tool_call("find", order_id="W1"), "Found.", "Found again.")
    run = await office.ended("clerk", "Find W1.", priority="batch")

    _, answer = await answer_of(office, run.id, 3)

    assert answer == "Found again."
    assert len(office.model.requests) == 3
