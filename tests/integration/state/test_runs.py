"""A run is written once per idempotency key, however many ask at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal

import pytest

from state import runs, transcripts
from state.pool import Database
from state.runs import NewRun
from tests.integration.state.ledger import found, new_id, new_run, sub_run
from workflows.contracts.errors import IdempotencyConflictError, UnknownRunError
from workflows.contracts.messages import Message, Role

HELLO = Message(role=Role.USER, text="hello")


def keyed(key: str | None = None, *, body: str = "body", tenant: str = "t1") -> NewRun:
    return NewRun(new_id(), tenant, "support", "hash", "u1", key or new_id("key"), body, Decimal(1))


async def test_a_run_is_written_with_its_first_message(database: Database) -> None:
    new = keyed()
    books = await runs.create(database, new, HELLO)
    assert (books.run_id, books.tenant, books.user, books.idempotency_key) == (new.run_id, "t1", "u1", new.idempotency_key)
    assert (books.cost_limit_usd, books.spent_usd, books.parent_run_id) == (1, 0, None)
    assert await runs.books(database, new.run_id) == books
    assert [entry.message for entry in await transcripts.entries(database, new.run_id)] == [HELLO]


async def test_of_many_starts_at_once_with_one_key_all_get_the_same_run(database: Database) -> None:
    new = keyed()
    starts = [runs.create(database, replace(new, run_id=new_id()), HELLO) for _ in range(16)]
    found_runs = {books.run_id for books in await asyncio.gather(*starts)}
    assert len(found_runs) == 1
    assert len(await transcripts.entries(database, found_runs.pop())) == 1


async def test_another_body_under_the_same_key_is_a_conflict_and_changes_nothing(database: Database) -> None:
    new = keyed()
    await runs.create(database, new, HELLO)
    other = keyed(new.idempotency_key, body="another body")
    with pytest.raises(IdempotencyConflictError, match=f"was used with another body \\(run {new.run_id}\\)"):
        await runs.create(database, other, Message(role=Role.USER, text="something else"))
    with pytest.raises(UnknownRunError):
        await runs.books(database, other.run_id)
    assert [entry.message for entry in await transcripts.entries(database, new.run_id)] == [HELLO]


async def test_keys_are_each_tenants_own(database: Database) -> None:
    new = keyed()
    first = await runs.create(database, new, HELLO)
    second = await runs.create(database, keyed(new.idempotency_key, tenant="t2", body="another body"), HELLO)
    assert first.run_id != second.run_id


async def test_runs_without_a_key_are_never_taken_for_each_other(database: Database) -> None:
    assert await new_run(database) != await new_run(database)


async def test_a_run_knows_its_sub_runs(database: Database) -> None:
    run_id = await new_run(database)
    await found(database, run_id, [sub_run(f"{run_id}.2"), sub_run(f"{run_id}.3")])
    await found(database, f"{run_id}.2", [sub_run(f"{run_id}.2.2")])
    assert sorted(await runs.children(database, run_id)) == [f"{run_id}.2", f"{run_id}.3"]


async def test_an_unknown_run_is_named(database: Database) -> None:
    with pytest.raises(UnknownRunError, match="'nowhere'"):
        await runs.books(database, "nowhere")
