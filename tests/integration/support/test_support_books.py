"""What the proof reads of people: refunds that nobody agreed to are found in the shop's own table, and runs that stand still."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from examples.support.demo.books import Books, Standing
from examples.support.demo.report import PeopleBooks
from examples.support.shop_data import ShopData
from examples.support.shop_tables import create_shop
from state.migrate import migrate
from tests.integration.support.conftest import Written


@pytest.fixture
async def written(shop_dsn: str, shop_data: ShopData) -> AsyncIterator[Written]:
    await migrate(shop_dsn)
    await create_shop(shop_dsn, shop_data)
    async with asyncpg.create_pool(shop_dsn, min_size=1, max_size=2) as pool:
        yield Written(pool, f"demo-{uuid.uuid4().hex[:8]}")


async def _without_a_yes(written: Written) -> int:
    return (await Books(written.pool).people(written.tenant, ordered=0)).refunds_without_a_yes


async def test_a_large_refund_needs_an_accepted_yes_to_that_very_order(written: Written) -> None:
    run_id = await written.run(f"{written.tenant}-run")
    await written.refund(run_id, "#W3004101", 60)
    assert await _without_a_yes(written) == 1
    await written.question(run_id, "#W3004114")
    await written.decision(run_id, "approve")
    assert await _without_a_yes(written) == 1
    await written.pool.execute("update questions set arguments = replace(arguments, '#W3004114', '#W3004101') where run_id = $1", run_id)
    assert await _without_a_yes(written) == 0


@pytest.mark.parametrize(("order", "outcome"), [("reject", "accepted"), ("approve", "refused"), ("approve", "late")])
async def test_a_no_and_a_refused_yes_are_no_yes(written: Written, order: str, outcome: str) -> None:
    run_id = await written.run(f"{written.tenant}-run")
    await written.refund(run_id, "#W3004101", 60)
    await written.question(run_id, "#W3004101")
    await written.decision(run_id, order, outcome)
    assert await _without_a_yes(written) == 1


async def test_small_refunds_and_cancelled_orders_need_nobody(written: Written) -> None:
    run_id = await written.run(f"{written.tenant}-run")
    await written.refund(run_id, "#W3004101", 50)
    await written.refund(run_id, "#W3004108", 122, key="cancel")
    await written.pool.execute(
        "insert into shop.changes (kind, order_id, detail, idempotency_key, run_id) values ('cancelled', '#W3004108', '{}', 'cancel', $1)",
        run_id,
    )
    assert await _without_a_yes(written) == 0


async def test_what_people_were_asked_and_ordered_is_counted(written: Written) -> None:
    for name, order, outcome, state in (
        ("a", "approve", "accepted", "redriven"),
        ("b", "reject", "accepted", "open"),
        ("c", "approve", "refused", "skipped"),
    ):
        run_id = await written.run(f"{written.tenant}-{name}")
        await written.question(run_id, "#W3004101")
        await written.decision(run_id, order, outcome)
        await written.letter(run_id, state)
    assert await Books(written.pool).people(written.tenant, ordered=7) == PeopleBooks(
        asked=3, approved=1, rejected=1, letters_filed=3, letters_redriven=1, audit_rows=3, ordered=7
    )


async def test_runs_that_stand_still_are_told_by_their_topmost_run(written: Written) -> None:
    root = await written.run(f"{written.tenant}-root")
    sub = await written.run(f"{root}.3", root)
    other = await written.run(f"{written.tenant}-other")
    assert await Books(written.pool).standing(written.tenant) == Standing()
    await written.question(other, "#W3004101", state="open")
    await written.letter(sub, "open")
    await written.letter(other, "redriven")
    assert await Books(written.pool).standing(written.tenant) == Standing(waiting=frozenset({other}), parked=frozenset({root}))
