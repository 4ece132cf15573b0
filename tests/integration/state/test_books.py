"""The books of a run: every model call is paid once, and what nobody knows is charged until somebody does."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import asyncpg
import pytest

from devstack.stack import RunningStack
from state import model_calls, transcripts
from state.pool import Database
from tests.integration.state.ledger import (
    WORST_USD,
    begin,
    books,
    finish,
    found,
    money,
    new_id,
    new_run,
    one_waits_for,
    plan,
    request,
    states,
    sub_run,
)
from workflows.contracts.errors import UnknownRunError
from workflows.contracts.steps import Appendix

ZERO = Decimal(0)
PAID = Decimal("0.02")


async def test_a_call_reserves_its_worst_case_and_settles_to_what_it_cost(database: Database) -> None:
    run_id = await new_run(database)
    begun = await begin(database, run_id)
    assert (begun.outcome, begun.max_output_tokens) == ("go", 100)
    assert [message.text for message in begun.messages] == ["hello"]
    assert await money(database, run_id) == (ZERO, WORST_USD, ZERO)

    assert await finish(database, begun.call_id) == {"call": begun.call_id}
    assert await money(database, run_id) == (PAID, ZERO, ZERO)
    (charge,) = await model_calls.charges(database, run_id)
    assert (charge.state, charge.cost_usd, charge.price_version, charge.request_id) == (
        "recorded",
        PAID,
        "table 1",
        f"req-{begun.call_id}",
    )
    assert (charge.input_tokens, charge.cached_tokens, charge.output_tokens) == (20, 5, 7)
    assert (charge.provider, charge.model, charge.reason) == ("openai", "gpt-5-mini-2026", "named by the agent")


async def test_a_retry_finds_the_paid_response_and_charges_nothing(database: Database) -> None:
    run_id = await new_run(database)
    begun = await begin(database, run_id)
    await finish(database, begun.call_id)
    again = await begin(database, run_id)
    assert (again.outcome, again.turn) == ("recorded", {"call": begun.call_id})
    assert await states(database, run_id) == ["recorded"]
    assert await money(database, run_id) == (PAID, ZERO, ZERO)


async def test_a_response_recorded_twice_counts_once(database: Database) -> None:
    run_id = await new_run(database)
    begun = await begin(database, run_id)
    first = await finish(database, begun.call_id)
    assert await finish(database, begun.call_id, "0.09", text="another answer") == first
    assert await money(database, run_id) == (PAID, ZERO, ZERO)
    assert [entry.message.text for entry in await transcripts.entries(database, run_id)] == ["hello", "the answer"]


async def test_a_dead_attempt_is_charged_as_reserved_and_shown_as_unknown(database: Database) -> None:
    run_id = await new_run(database)
    await begin(database, run_id)
    second = await begin(database, run_id)
    assert (second.outcome, second.unknown_usd) == ("go", WORST_USD)
    assert await money(database, run_id) == (WORST_USD, WORST_USD, WORST_USD)
    await finish(database, second.call_id)
    assert await money(database, run_id) == (WORST_USD + PAID, ZERO, WORST_USD)
    assert await states(database, run_id) == ["unknown", "recorded"]
    assert (await begin(database, run_id)).unknown_usd == WORST_USD, "a retry that finds the response is told too"


async def test_a_late_answer_settles_an_unknown_attempt_and_is_the_one_that_counts(database: Database) -> None:
    run_id = await new_run(database)
    first = await begin(database, run_id)
    second = await begin(database, run_id)
    assert await finish(database, first.call_id, text="late but first") == {"call": first.call_id}
    assert await money(database, run_id) == (PAID, WORST_USD, ZERO)

    assert await finish(database, second.call_id, "0.03", text="second") == {"call": first.call_id}
    assert await states(database, run_id) == ["recorded", "superseded"]
    assert await money(database, run_id) == (PAID + Decimal("0.03"), ZERO, ZERO), "both were paid, both are charged"
    assert [entry.message.text for entry in await transcripts.entries(database, run_id)] == ["hello", "late but first"]


async def test_a_late_answer_after_another_was_recorded_is_charged_and_not_used(database: Database) -> None:
    run_id = await new_run(database)
    first = await begin(database, run_id)
    second = await begin(database, run_id)
    await finish(database, second.call_id, text="in time")
    assert await finish(database, first.call_id, "0.03", text="too late") == {"call": second.call_id}
    assert await states(database, run_id) == ["superseded", "recorded"]
    assert await money(database, run_id) == (PAID + Decimal("0.03"), ZERO, ZERO)
    assert [entry.message.text for entry in await transcripts.entries(database, run_id)] == ["hello", "in time"]


async def test_a_refused_attempt_gives_its_reservation_back(database: Database) -> None:
    run_id = await new_run(database)
    begun = await begin(database, run_id)
    await model_calls.fail(database, begun.call_id, "throttled", "slow down, key sk-ant-api03-" + "Ab3dE5gH7jK9" * 4)
    await model_calls.fail(database, begun.call_id, "throttled", "again")
    assert await money(database, run_id) == (ZERO, ZERO, ZERO)
    (charge,) = await model_calls.charges(database, run_id)
    assert (charge.state, charge.failure_class, charge.cost_usd) == ("failed", "throttled", ZERO)
    assert "sk-ant" not in str(charge.failure)
    assert (await begin(database, run_id)).outcome == "go"


async def test_an_attempt_of_unknown_outcome_is_charged_once(database: Database) -> None:
    run_id = await new_run(database)
    begun = await begin(database, run_id)
    for _ in range(2):
        await model_calls.charge_unknown(database, begun.call_id, "transient", "the stream stopped")
    assert await money(database, run_id) == (WORST_USD, ZERO, WORST_USD)
    await model_calls.fail(database, begun.call_id, "transient", "too late to give it back")
    assert await money(database, run_id) == (WORST_USD, ZERO, WORST_USD)


async def test_a_call_over_the_budget_is_refused_and_leaves_nothing(database: Database) -> None:
    run_id = await new_run(database, "0.25")
    for step in (1, 2):
        assert (await begin(database, run_id, step, cost_usd="0.25", min_output_tokens=100)).outcome == "go"
    refused = await begin(database, run_id, 3, cost_usd="0.25", min_output_tokens=100)
    assert (refused.outcome, refused.refused_by, refused.messages) == ("over_budget", run_id, ())
    assert await money(database, run_id) == (ZERO, 2 * WORST_USD, ZERO)
    assert await states(database, run_id) == ["in_flight"] * 2


async def test_an_answer_may_be_as_long_as_the_budget_lasts(database: Database) -> None:
    run_id = await new_run(database, "0.05")
    begun = await begin(database, run_id, cost_usd="0.05")
    assert (begun.outcome, begun.max_output_tokens) == ("go", 50)
    assert await money(database, run_id) == (ZERO, Decimal("0.050"), ZERO)


async def test_a_raised_limit_lets_the_call_go(database: Database) -> None:
    run_id = await new_run(database, "0.001")
    assert (await begin(database, run_id, cost_usd="0.001")).outcome == "over_budget"
    assert (await begin(database, run_id, cost_usd=2)).outcome == "go"
    assert (await books(database, run_id)).cost_limit_usd == 2


async def test_input_counts_with_its_price_and_its_headroom(database: Database) -> None:
    run_id = await new_run(database, text="x" * 3_500)
    begun = await begin(database, run_id, input_usd=Decimal("0.0001"), overhead_tokens=94, estimate_factor=1.5, output_usd=ZERO)
    assert begun.input_tokens == 1_650, "1.5 times (1,000 for the text, 6 for the message, 94 beside it)"
    assert await money(database, run_id) == (ZERO, Decimal("0.1650"), ZERO)


async def test_a_conversation_that_does_not_fit_is_told_before_anything_is_reserved(database: Database) -> None:
    run_id = await new_run(database, text="x" * 3_500)
    begun = await begin(database, run_id, window_tokens=1_000)
    assert (begun.outcome, begun.input_tokens) == ("context_full", 1_006)
    assert await money(database, run_id) == (ZERO, ZERO, ZERO)
    assert (await begin(database, run_id, window_tokens=1_016)).max_output_tokens == 10, "what is left of the window"


async def test_a_free_model_is_never_refused_for_money(database: Database) -> None:
    run_id = await new_run(database, "0.01")
    begun = await begin(database, run_id, cost_usd="0.01", output_usd=ZERO)
    assert (begun.outcome, begun.max_output_tokens) == ("go", 100)


async def test_a_cheap_model_under_a_large_budget_can_be_called(database: Database) -> None:
    run_id = await new_run(database, 10_000)
    begun = await begin(database, run_id, cost_usd=10_000, output_usd=Decimal("0.00000001"))
    assert (begun.outcome, begun.max_output_tokens) == ("go", 100), "the budget would buy 10¹² tokens"


async def test_a_conversation_that_costs_more_than_is_left_is_refused_however_cheap_the_answer(database: Database) -> None:
    run_id = await new_run(database, "0.01", text="x" * 35_000)
    begun = await begin(database, run_id, cost_usd="0.01", input_usd=Decimal(1), output_usd=Decimal("0.000000001"), window_tokens=100_000)
    assert begun.outcome == "over_budget"


async def test_input_that_costs_more_than_is_left_is_refused_though_the_answer_is_free(database: Database) -> None:
    run_id = await new_run(database, "0.01")
    assert (await begin(database, run_id, cost_usd="0.01", input_usd=Decimal("0.01"), output_usd=ZERO)).outcome == "over_budget"
    assert await money(database, run_id) == (ZERO, ZERO, ZERO)


async def test_sub_runs_charge_all_their_ancestors(database: Database) -> None:
    root = await new_run(database)
    child, grandchild = f"{root}.2", f"{root}.2.2"
    await found(database, root, [sub_run(child)])
    await found(database, child, [sub_run(grandchild)])

    begun = await begin(database, grandchild)
    for run_id in (root, child, grandchild):
        assert await money(database, run_id) == (ZERO, WORST_USD, ZERO)
    await begin(database, grandchild)
    second = await begin(database, grandchild)
    await finish(database, second.call_id)
    await finish(database, begun.call_id, "0.03")
    for run_id in (root, child, grandchild):
        assert await money(database, run_id) == (PAID + Decimal("0.03") + WORST_USD, ZERO, WORST_USD)


async def test_a_sub_run_is_held_to_the_budget_of_every_ancestor(database: Database) -> None:
    root = await new_run(database, "0.15")
    child = f"{root}.2"
    await found(database, root, [sub_run(child, 5)])
    assert (await begin(database, child, cost_usd=5, min_output_tokens=100)).outcome == "go"
    refused = await begin(database, child, 2, cost_usd=5, min_output_tokens=100)
    assert (refused.outcome, refused.refused_by) == ("over_budget", root)
    assert await money(database, root) == (ZERO, WORST_USD, ZERO)


async def test_a_turn_founds_its_sub_runs_once_with_their_first_message(database: Database) -> None:
    root = await new_run(database)
    begun = await begin(database, root)
    for _ in range(2):
        await finish(database, begun.call_id, sub_runs=[sub_run(f"{root}.2", "0.4"), sub_run(f"{root}.3", "0.5")])
    child = await books(database, f"{root}.3")
    assert (child.parent_run_id, child.agent, child.cost_limit_usd) == (root, "helper", Decimal("0.5"))
    (entry,) = await transcripts.entries(database, f"{root}.3")
    assert (entry.step, entry.message.text) == (0, f"do your part, {root}.3")


async def test_a_run_that_is_not_in_the_database_is_named(database: Database) -> None:
    with pytest.raises(UnknownRunError, match="books-nowhere"):
        await begin(database, "books-nowhere")


async def test_a_call_that_waited_for_the_books_sees_what_was_recorded_meanwhile(database: Database, stack: RunningStack) -> None:
    run_id = await new_run(database)
    begun = await begin(database, run_id)
    holder = await asyncpg.connect(stack.database_url)
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.fetchval("select 1 from runs where run_id = $1 for update", run_id)
        waiting = asyncio.create_task(begin(database, run_id))
        await one_waits_for(holder)
        await holder.execute(
            "select finish_model_call($1, '{\"call\": \"first\"}', 0.02, 'table 1', 1, 0, 0, 1, 'r', false, 'm', '[]', '[]')", begun.call_id
        )
        await transaction.commit()
    finally:
        await holder.close()
    second = await asyncio.wait_for(waiting, 10)
    assert (second.outcome, second.turn) == ("recorded", {"call": "first"})
    assert await states(database, run_id) == ["recorded"]


async def test_books_are_locked_from_the_root_down(database: Database, stack: RunningStack) -> None:
    root = await new_run(database)
    await found(database, root, [sub_run(f"{root}.2")])
    holder = await asyncpg.connect(stack.database_url)
    try:
        transaction = holder.transaction()
        await transaction.start()
        await holder.fetchval("select 1 from runs where run_id = $1 for update", f"{root}.2")
        waiting = asyncio.create_task(begin(database, f"{root}.2"))
        await one_waits_for(holder)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await database.fetchval("select 1 from runs where run_id = $1 for update nowait", root)
        await transaction.commit()
        assert (await asyncio.wait_for(waiting, 10)).outcome == "go"
    finally:
        await holder.close()


async def test_appendices_are_written_once_and_before_the_model_is_asked(database: Database) -> None:
    run_id, child = await new_run(database), new_id()
    await found(database, run_id, [sub_run(f"{run_id}.2")])
    child = f"{run_id}.2"
    begun = await begin(database, child)
    await finish(database, begun.call_id, text="a long answer of the sub-run")
    appendices = [
        Appendix(step=2, call_id="c2", name="helper", text="preview…", child_run_id=child),
        Appendix(step=3, call_id="c3", name="refund", text="A person said no", is_error=True),
        Appendix(step=4, call_id="c4", name="helper", text="stopped", is_error=True, child_run_id=child),
        Appendix(step=5, call_id="c5", name="helper", text="no such run, so this", child_run_id="nowhere"),
    ]
    for _ in range(2):
        asked = await model_calls.begin(database, request(run_id, 6, appendices=appendices), plan())
    told = [(message.call_id, message.text, message.is_error) for message in asked.messages[2:]]
    assert told == [
        ("c2", "a long answer of the sub-run", False),
        ("c3", "A person said no", True),
        ("c4", "stopped", True),
        ("c5", "no such run, so this", False),
    ]
