"""Orders to a run by the client: each is judged by the run, answered, and on record; the inbox shows what waits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator

import pytest

import worker
from activities.inference.providers.scripted import ScriptedAnswer, ScriptedModel, tool_call
from client import orders
from client.orchestrator import Orchestrator
from client.settings import Settings
from client.temporal import connect_temporal
from devstack.stack import RunningStack
from state import transcripts
from state.pool import Database
from testkit.environment import OneModel, open_environment
from tests.integration.people.conftest import AGENTS, WITHIN_S, Open, record, until, waiting
from workflows.contracts.errors import InvalidInputError, RunStateError, UnknownRunError
from workflows.contracts.messages import Role
from workflows.contracts.runs import RunStatus


def pay_100() -> ScriptedAnswer:
    """A call that waits for a yes; each pays an order of its own back, since one order is one effect over all runs."""
    arguments = {"order_id": f"C{uuid.uuid4().hex[:10]}", "amount_usd": "100"}
    return ScriptedAnswer("The customer wants it back.", (("refund", arguments),))


async def test_the_inbox_tells_what_waits_and_why_and_the_record_who_decided(opened: Open) -> None:
    env = await opened(pay_100(), "Paid.")
    run = await env.start("desk", "My order C100 came broken.", user="carl")

    (one,) = await waiting(env, run)

    assert (one.agent, one.tool, one.kind, one.user) == ("desk", "refund", "approval", "carl")
    assert json.loads(one.arguments)["amount_usd"] == "100"
    assert (one.why, one.context) == ("The customer wants it back.", "My order C100 came broken.")
    assert (one.allowed, one.until, one.version, one.state) == ([], None, 1, "open")
    verdict = await run.approve(one.call_id, by="ann", reason="he is right")
    assert verdict.outcome == "accepted"
    assert await run.result(timeout_s=WITHIN_S) == "Paid."
    (noted,) = await record(env, run, 1)
    assert (noted.order, noted.by, noted.channel, noted.outcome) == ("approve", "ann", "update", "accepted")
    assert (noted.version, noted.call_id, noted.reason) == (1, one.call_id, "he is right")
    assert noted.arguments_hash is not None
    settled = await env.holdfast.inbox.get(run.id, one.call_id)
    assert (settled.state, settled.settled_by, settled.outcome) == ("settled", "ann", "approve")
    assert await env.holdfast.inbox.list(run=run.id) == ()


async def test_the_same_twice_is_one_decision_and_a_later_other_one_is_told_who_was_first(opened: Open) -> None:
    env = await opened(
        ScriptedAnswer(calls=(("refund", {"order_id": uuid.uuid4().hex[:10], "amount_usd": "100"}), ("dismiss", {"name": "Max"}))),
        "Done.",
    )
    run = await env.start("desk", "x")
    found = await waiting(env, run, 2)
    pay = next(each for each in found if each.tool == "refund")

    await run.approve(pay.call_id, by="ann")
    assert (await run.approve(pay.call_id, by="ann")).outcome == "duplicate"
    with pytest.raises(RunStateError, match=r"too late: ann has decided already: approve"):
        await run.reject(pay.call_id, by="bob")
    with pytest.raises(RunStateError, match=r"refused: no call 'c999'"):
        await run.approve("c999")

    noted = await record(env, run, 4)
    assert [each.outcome for each in noted] == ["accepted", "duplicate", "late", "refused"]
    await run.stop(by="ann")


async def test_two_of_a_group_must_say_yes_and_nobody_for_himself(opened: Open) -> None:
    env = await opened(tool_call("dismiss", name="Max"), "He is gone.")
    run = await env.start("desk", "Dismiss Max.", user="bob")
    (one,) = await waiting(env, run)
    assert (one.named, one.allowed, one.quorum, one.risk) == (["@leads"], ["lea", "bob"], 2, "high")

    with pytest.raises(RunStateError, match="run's own user"):
        await run.approve(by="bob")
    with pytest.raises(RunStateError, match="carl may not decide on this; lea, bob may"):
        await run.approve(by="carl")
    verdict = await run.approve(by="lea")

    assert (verdict.outcome, verdict.reason) == ("counted", "1 of 2 have said yes")
    assert (await until(lambda: waiting(env, run), lambda found: found[0].yes == ["lea"]))[0].state == "open"
    assert [each.run_id for each in await env.holdfast.inbox.list(who="lea", run=run.id)] == [run.id]
    assert await env.holdfast.inbox.list(who="bob", run=run.id) == ()
    await run.take_over("Nobody is dismissed.", by="lea")
    assert await run.result(timeout_s=WITHIN_S) == "Nobody is dismissed."
    assert (await env.holdfast.inbox.get(run.id, one.call_id)).state == "withdrawn"


async def test_an_edit_must_fit_the_schema_and_becomes_the_next_version(opened: Open) -> None:
    env = await opened(pay_100(), "Paid in part.")
    run = await env.start("desk", "x")
    (one,) = await waiting(env, run)

    with pytest.raises(RunStateError, match=r"do not fit its schema: amount_usd: \['60'\]"):
        await run.edit(one.call_id, {"order_id": "C100", "amount_usd": ["60"]}, by="ann")
    with pytest.raises(RunStateError, match=r"amount_usd: .*valid decimal"):
        await run.edit(one.call_id, {"order_id": "C100", "amount_usd": "plenty"}, by="ann")
    await run.edit(one.call_id, json.loads(one.arguments) | {"amount_usd": "60"}, by="ann")

    assert await run.result(timeout_s=WITHIN_S) == "Paid in part."
    noted = await record(env, run, 3)
    assert [(each.outcome, each.version) for each in noted] == [("refused", 1), ("refused", 1), ("accepted", 2)]
    assert noted[1].arguments_hash != noted[2].arguments_hash
    settled = await env.holdfast.inbox.get(run.id, one.call_id)
    assert (settled.version, json.loads(settled.arguments)["amount_usd"]) == (2, "60")


@pytest.mark.parametrize(
    ("asked", "wrong", "told", "right", "text"),
    [
        ({}, "", "answer: is empty", "Blue.", "Blue."),
        ({"choices": ["red", "blue"]}, "green", 'must be one of "red", "blue"', "blue", "blue"),
        (
            {"answer_schema": {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}},
            {"days": "many"},
            r"answer\.days: 'many' is not of type 'integer'",
            {"days": 3},
            '{"days": 3}',
        ),
    ],
)
async def test_a_question_is_answered_freely_by_choice_or_by_schema(
    opened: Open, asked: dict[str, object], wrong: object, told: str, right: object, text: str
) -> None:
    env = await opened(tool_call("ask_person", question="Which?", **asked), "Thanks.")
    run = await env.start("desk", "x")
    (one,) = await waiting(env, run)
    assert (one.kind, one.tool) == ("question", "ask_person")

    with pytest.raises(RunStateError, match=told):
        await run.answer(wrong, by="ann")  # type: ignore[arg-type]
    with pytest.raises(RunStateError, match="nothing waits for a yes or no"):
        await run.approve(by="ann")
    await run.answer(right, by="ann")  # type: ignore[arg-type]

    assert await run.result(timeout_s=WITHIN_S) == "Thanks."
    entries = await transcripts.entries(env.holdfast._backend.database, run.id)
    assert [entry.message.text for entry in entries if entry.message.role is Role.TOOL] == [text]


async def test_an_instruction_and_an_interruption_are_told_to_the_model_as_said(opened: Open) -> None:
    env = await opened(pay_100(), "Nothing is paid.")
    run = await env.start("desk", "x")
    (one,) = await waiting(env, run)

    await run.interrupt("It was order C200.")
    await run.instruct("Offer a voucher.", call_id=one.call_id, by="ann")

    assert await run.result(timeout_s=WITHIN_S) == "Nothing is paid."
    entries = await transcripts.entries(env.holdfast._backend.database, run.id)
    said = [(entry.message.role.value, entry.message.text) for entry in entries[2:]]
    assert said == [
        ("tool", "A person instructs you instead: Offer a voucher."),
        ("user", "It was order C200."),
        ("assistant", "Nothing is paid."),
    ]
    assert [(step.kind, step.is_error) for step in await run.steps()] == [
        ("input", False),
        ("model", False),
        ("tool", True),
        ("model", False),
    ]


async def test_a_run_is_paused_and_resumed(opened: Open) -> None:
    env = await opened(pay_100(), "Paid.")
    run = await env.start("desk", "x")
    await waiting(env, run)

    await run.pause(by="ann")
    assert (await run.pause(by="bob")).outcome == "duplicate"
    await run.approve(by="ann")
    await until(run.status, lambda status: status is RunStatus.PAUSED)
    await run.resume(by="ann")

    assert await run.result(timeout_s=WITHIN_S) == "Paid."


async def test_limits_and_model_of_a_live_run_are_changed(opened: Open) -> None:
    env = await opened(pay_100(), "Paid.")
    run = await env.start("desk", "x")
    await waiting(env, run)

    await run.change(model="openai:gpt-5", limits={"cost_usd": "2.50"}, by="ann")
    with pytest.raises(RunStateError, match=r"limits\.steps"):
        await run.change(limits={"steps": 0}, by="ann")
    view = await run.view()
    await run.approve(by="ann")

    assert (str(view.limits.cost_usd), view.limits.steps) == ("2.50", 20)
    assert await run.result(timeout_s=WITHIN_S) == "Paid."
    assert {step.name for step in await run.steps() if step.kind == "model"} >= {"openai:gpt-5"}


async def test_an_order_for_a_run_that_has_ended_is_refused_and_on_record(opened: Open) -> None:
    env = await opened("Done.")
    run = await env.start("desk", "x")
    await run.result(timeout_s=WITHIN_S)

    with pytest.raises(RunStateError, match="has ended already"):
        await run.approve(by="ann")
    with pytest.raises(UnknownRunError):
        await env.holdfast.approve("no-such-run")

    (noted,) = await env.holdfast.inbox.decisions(run.id)
    assert (noted.order, noted.by, noted.channel, noted.outcome) == ("approve", "ann", "client", "refused")
    assert (noted.number, noted.reason) == (None, "the run has ended")


async def test_a_run_that_was_terminated_waits_for_nobody(opened: Open) -> None:
    env = await opened(pay_100())
    run = await env.start("desk", "x")
    (one,) = await waiting(env, run)

    await env.client.get_workflow_handle(run.id).terminate("by the test")

    assert await env.holdfast.inbox.list(run=run.id) == ()
    assert (await env.holdfast.inbox.get(run.id, one.call_id)).state == "withdrawn"


@contextlib.asynccontextmanager
async def serving_again(stack: RunningStack, task_queue: str, model: ScriptedModel) -> AsyncIterator[None]:
    """Another worker, as after a restart."""
    settings = Settings(
        temporal_address=stack.temporal_address, namespace=stack.namespace, database_url=stack.database_url, task_queue=task_queue
    )
    async with Database.open(stack.database_url) as database:
        parts = worker.Parts(database=database, inference=(OneModel(model.name), {model.name: model}))
        async with worker.serving(await connect_temporal(settings), task_queue, parts, folders=[AGENTS]):
            yield


async def test_without_a_worker_an_order_is_left_as_a_signal_and_counts_once(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orders, "ANSWER_WITHIN_S", 1.0)
    model = ScriptedModel([pay_100(), "Paid."])
    async with open_environment(stack, agents=[AGENTS], model=model) as gone:
        started = await gone.start("desk", "x")
        await waiting(gone, started)
    settings = gone.holdfast.settings
    async with Orchestrator.connect(settings) as holdfast:
        run = await holdfast.get(started.id)
        verdict = await run.interrupt("It was order C200.")
        approved = await run.approve(by="ann")
        assert (verdict.outcome, approved.outcome) == ("sent", "sent")

        async with serving_again(stack, gone.task_queue, model):
            assert await run.result(timeout_s=WITHIN_S) == "Paid."
            noted = await holdfast.inbox.decisions(run.id)
    assert [each.order for each in noted].count("interrupt") == 1


def test_an_order_that_is_none_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInputError, match="message"):
        orders._read("instruct", {"message": ""})
    with pytest.raises(InvalidInputError, match="by"):
        orders._read("approve", {"by": "x" * 500})


async def test_many_are_approved_at_once_by_filter_and_rate(opened: Open) -> None:
    env = await opened(*[pay_100() for _ in range(5)], *["Paid."] * 4)
    user = f"u-{env.task_queue}"
    runs = [await env.start("desk", "x", user=user) for _ in range(4)]
    other = await env.start("desk", "x", user="somebody else")
    for run in (*runs, other):
        await waiting(env, run)

    assert await env.holdfast.inbox.count(user=user, tool="refund") == 4
    done = await env.holdfast.inbox.decide("approve", by="ann", rate_per_s=100, user=user, tool="refund")

    assert (done.held, done.sent, done.refused) == (4, 0, ())
    assert await asyncio.gather(*(run.result(timeout_s=WITHIN_S) for run in runs)) == ["Paid."] * 4
    assert await other.status() is RunStatus.WAITING_APPROVAL
    assert (await env.holdfast.inbox.decide("approve", user=user)).held == 0
    await other.stop()


async def test_whatever_anybody_sends_by_plain_signals_is_judged_and_on_record(opened: Open) -> None:
    env = await opened(pay_100(), "Paid.")
    run = await env.start("desk", "x")
    (one,) = await waiting(env, run)
    handle = env.client.get_workflow_handle(run.id)

    await handle.signal("aprove", {"by": "ann"})
    await handle.signal("approve", "yes")
    await handle.signal("approve", {"call": one.call_id, "by": "ann"})
    await handle.signal("approve", {"call_id": 7, "by": "ann"})
    await handle.signal("answer", {"answer": "blue", "by": "ann"})
    await handle.signal("redrive", {"by": "ann"})
    await handle.signal("edit", {"call_id": one.call_id, "arguments": {}, "by": "ann"})
    await handle.signal("approve", {"call_id": one.call_id, "by": "ann"})

    assert await run.result(timeout_s=WITHIN_S) == "Paid."
    noted = await record(env, run, 8)
    assert [(each.order, each.channel, each.outcome) for each in noted] == [
        ("aprove", "signal", "refused"),
        *[("approve", "signal", "refused")] * 3,
        ("answer", "signal", "refused"),
        ("redrive", "signal", "refused"),
        ("edit", "signal", "refused"),
        ("approve", "signal", "accepted"),
    ]
    reasons = [each.reason for each in noted]
    assert "there is no order of this name" in reasons[0]
    assert "one JSON object" in reasons[1]
    assert "call" in reasons[2]
    assert "call_id" in reasons[3]
    assert "order_id" in reasons[6]
    assert [each.number for each in noted] == sorted(each.number or 0 for each in noted)
