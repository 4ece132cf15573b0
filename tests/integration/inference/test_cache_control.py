"""What the owner of a response cache is told, and throws away."""

from __future__ import annotations

from typing import Any, cast

import pytest

from activities.inference.cache import Lead
from client.backend import Backend
from client.cache import CacheControl
from state import response_cache
from state.pool import Database
from tests.integration.inference.askers import COST_USD, answer, asked, key_of, worker
from tests.integration.state.conftest import guarded, guarded_url, new_database_url  # noqa: F401 - fixtures
from workflows.contracts.errors import InvalidInputError


def control(database: Database) -> CacheControl:
    return CacheControl(Backend(cast("Any", None), cast("Any", None), database, cast("Any", None)))


async def test_what_was_saved_what_is_held_and_who_asks_is_told_and_thrown_away_by_tag(database: Database) -> None:
    agent = "told-of-its-cache"
    kept, asking = (key_of(asked(text), agent=agent, tags=(agent,)) for text in ("kept", "asking"))
    async with worker(database) as cache:
        lead = await cache.look(kept)
        assert isinstance(lead, Lead)
        assert await cache.keep(lead, answer(), COST_USD)
        await cache.look(kept)
        assert isinstance(await cache.look(asking), Lead)
        flights = [flight.key for flight in (await control(database).stats()).flights if flight.agent == agent]
        assert flights == [asking.digest]
    told = next(each for each in (await control(database).stats()).agents if each.agent == agent)
    assert (told.exact, told.missed, told.saved_usd, told.entries) == (1, 2, COST_USD, 1)
    listed = await control(database).list(tags=(agent,))
    assert [(each.key, each.hits, each.cost_usd, each.tags) for each in listed] == [(kept.digest, 1, COST_USD, (agent,))]
    assert await control(database).invalidate(tags=(agent,)) == 1
    assert await control(database).list(agent=agent) == ()


@pytest.mark.parametrize("said", [{}, {"agent": "desk", "everything": True}])
async def test_all_is_only_thrown_away_when_all_is_said(database: Database, said: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="Say which answers"):
        await control(database).invalidate(**said)


async def test_a_sweep_takes_what_is_too_old_and_then_the_oldest(guarded: Database) -> None:  # noqa: F811
    async with worker(guarded) as cache:
        for number in range(6):
            lead = await cache.look(key_of(asked("question", str(number)), agent="swept"))
            assert isinstance(lead, Lead)
            await cache.keep(lead, answer(str(number)), COST_USD)
    first = key_of(asked("question", "0"), agent="swept").digest
    await guarded.execute(
        "update cached_responses set expires_at = now() - interval '1 s', created_at = now() - interval '1 h' where key = $1", first
    )
    assert await response_cache.sweep(guarded, 10, 7_200) == 0, "it may still be given when nothing else is to be had"
    assert await response_cache.sweep(guarded, 10, 1_800) == 1
    assert await response_cache.sweep(guarded, 3, 1_800) == 2
    left = {each.key for each in await control(guarded).list()}
    assert left == {key_of(asked("question", str(number)), agent="swept").digest for number in (3, 4, 5)}
    assert await control(guarded).invalidate(everything=True) == 3
