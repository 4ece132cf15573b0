"""The response cache over several workers: the same request is answered once, and nobody gets what is not theirs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from activities.inference.cache import Busy, Lead, ResponseCache
from devstack.stack import RunningStack
from state import response_cache
from state.pool import Database
from state.response_cache import CHANNEL, CacheKey, Hit, Selection
from tests.integration.inference import askers
from tests.integration.inference.askers import COST_USD, answer, asked, key_of, until_had, worker
from workflows.contracts.inference import CacheSettings
from workflows.contracts.messages import FinishReason, ToolCall, Usage

OFFER = "sk-proj-Zx81Qv7Lm2Ta9Rk4Bn6Yc3Wd"


@pytest.fixture
async def cache(database: Database) -> AsyncIterator[ResponseCache]:
    async with worker(database) as opened:
        yield opened


@pytest.fixture
def agent(request: pytest.FixtureRequest) -> str:
    return request.node.name


async def file(cache: ResponseCache, key: CacheKey, text: str = "Tomorrow.") -> None:
    """Answer a request that nobody has asked yet."""
    lead = await cache.look(key)
    assert isinstance(lead, Lead)
    assert await cache.keep(lead, answer(text), COST_USD)


async def expire(database: Database, key: CacheKey) -> None:
    """Let the time of an answer be over, and a minute more."""
    moved = await database.execute(
        "update cached_responses set created_at = created_at - expires_at + now() - interval '1 minute', "
        "expires_at = now() - interval '1 minute' where key = $1",
        key.digest,
    )
    assert moved == "UPDATE 1"


async def test_what_was_answered_is_given_again_and_says_so_and_has_used_nothing(cache: ResponseCache, agent: str) -> None:
    key = key_of(asked("When does it come?"), agent=agent)
    await file(cache, key)
    hit = await cache.look(key)
    assert isinstance(hit, Hit)
    assert (hit.kind, hit.response.text, hit.response.model, hit.response.finish) == ("exact", "Tomorrow.", "gpt-5", FinishReason.STOP)
    assert hit.response.usage == Usage()
    assert hit.saved_usd == COST_USD


async def test_of_500_identical_calls_at_once_over_four_workers_one_asks_the_model(stack: RunningStack, agent: str) -> None:
    key = key_of(asked("When does it come?"), agent=agent)
    provider_calls = 0

    async def call(cache: ResponseCache) -> str:
        nonlocal provider_calls
        found = await until_had(cache, key)
        if isinstance(found, Hit):
            return found.response.text
        provider_calls += 1
        await at_work.wait()
        assert await cache.keep(found, answer("Tomorrow at nine."), COST_USD)
        return "Tomorrow at nine."

    async with contextlib.AsyncExitStack() as opened:
        databases = [await opened.enter_async_context(Database.open(stack.database_url)) for _ in range(4)]
        caches = [await opened.enter_async_context(worker(database)) for database in databases]
        at_work = asyncio.Event()
        calls = [asyncio.create_task(call(caches[number % 4])) for number in range(500)]
        while sum(each.following for each in caches) < 499:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)
        at_work.set()
        answers = await asyncio.gather(*calls)
    assert provider_calls == 1
    assert answers == ["Tomorrow at nine."] * 500


async def test_a_killed_leader_is_followed_by_exactly_one_other(stack: RunningStack, database: Database, agent: str) -> None:
    key = key_of(asked("Who leads?"), agent=agent)
    environ = os.environ | {"DATABASE_URL": stack.database_url, "QUESTION": "Who leads?", "AGENT": agent, "LEASE_S": "2"}
    leader = await asyncio.create_subprocess_exec(sys.executable, "-m", askers.__name__, env=environ, stdout=asyncio.subprocess.PIPE)
    assert leader.stdout is not None
    assert (await leader.stdout.readline()).strip() == b"Lead"
    leads = 0

    async def call(cache: ResponseCache) -> str:
        nonlocal leads
        found = await until_had(cache, key)
        if isinstance(found, Lead):
            leads += 1
            await cache.keep(found, answer("I do."), COST_USD)
            return "I do."
        return found.response.text

    async with worker(database, lease_s=2) as one, worker(database, lease_s=2) as other:
        assert await one.look(key) == Busy()
        renewed = "select lease_until > started_at + interval '4 seconds' from cache_flights where key = $1"
        while not await database.fetchval(renewed, key.digest):  # noqa: ASYNC110 - only the table tells
            await asyncio.sleep(0.1)
        assert await one.look(key) == Busy(), "a leader that lives keeps its lease"
        calls = [asyncio.create_task(call((one, other)[number % 2])) for number in range(20)]
        leader.send_signal(signal.SIGKILL)
        assert await leader.wait() == -signal.SIGKILL
        assert await asyncio.gather(*calls) == ["I do."] * 20
    assert leads == 1


async def test_a_leader_that_gives_up_lets_another_lead_at_once(cache: ResponseCache, database: Database, agent: str) -> None:
    key = key_of(asked("And now?"), agent=agent)
    async with worker(database) as other:
        lead = await cache.look(key)
        assert isinstance(lead, Lead)
        following = asyncio.create_task(other.follow(key, askers.FOLLOW_S))
        await cache.give_up(lead)
        assert await following is None
        assert isinstance(await other.look(key), Lead)
        assert not await cache.keep(lead, answer(), COST_USD), "who has given up files nothing"


async def test_a_follower_waits_no_longer_than_it_wants_to(cache: ResponseCache, agent: str) -> None:
    key = key_of(asked("And now?"), agent=agent)
    assert isinstance(await cache.look(key), Lead)
    assert await cache.follow(key, 0.05) is None
    assert await cache.look(key) == Busy()


async def test_a_lost_notice_is_healed_by_looking(cache: ResponseCache, database: Database, agent: str) -> None:
    key = key_of(asked("And now?"), agent=agent)
    lead = await cache.look(key)
    assert isinstance(lead, Lead)
    deaf = ResponseCache(database, _Silence(database), lambda: CacheSettings())
    async with deaf.open():
        following = asyncio.create_task(deaf.follow(key, askers.FOLLOW_S))
        assert await cache.keep(lead, answer(), COST_USD)
        hit = await following
    assert hit is not None
    assert hit.response.text == "Tomorrow."


async def test_an_answer_is_good_for_its_time_and_after_it_only_when_nothing_else_is_to_be_had(
    cache: ResponseCache, database: Database, agent: str
) -> None:
    key = key_of(asked("When?"), agent=agent, ttl_s=300)
    await file(cache, key)
    await expire(database, key)
    stale = await cache.stale(key)
    assert stale is not None
    assert (stale.kind, stale.response.text) == ("stale", "Tomorrow.")
    assert 300 < stale.age_s < 420
    assert isinstance(await cache.look(key), Lead)
    async with worker(database, CacheSettings(stale_s=60)) as stricter:
        assert await stricter.stale(key) is None


async def test_tags_agents_keys_and_tenants_throw_answers_away(cache: ResponseCache, database: Database, agent: str) -> None:
    prices = key_of(asked("Price?"), agent=agent, tags=("prices", "shop"))
    stock = key_of(asked("Stock?"), agent=agent, tags=("stock", "shop"))
    other = key_of(asked("Price?"), agent=agent, tenant="t2", tags=("prices",))
    for which, gone in [
        (Selection(agent=agent, tags=("prices",)), {prices, other}),
        (Selection(tags=("stock", "nothing"), agent=agent), {stock}),
        (Selection(tenant="t2", agent=agent), {other}),
        (Selection(key=stock.digest), {stock}),
        (Selection(agent=agent), {prices, stock, other}),
        (Selection(agent=f"not {agent}"), set()),
    ]:
        await response_cache.invalidate(database, Selection(agent=agent))
        for key in (prices, stock, other):
            await file(cache, key)
        assert await response_cache.invalidate(database, which) == len(gone)
        looked = {key: await cache.look(key) for key in (prices, stock, other)}
        assert {key for key, found in looked.items() if isinstance(found, Lead)} == gone
        for found in looked.values():
            if isinstance(found, Lead):
                await cache.give_up(found)


async def test_an_answer_that_was_in_the_air_when_its_like_was_thrown_away_is_not_filed(
    cache: ResponseCache, database: Database, agent: str
) -> None:
    key = key_of(asked("Price?"), agent=agent, tags=(agent,))
    lead = await cache.look(key)
    assert isinstance(lead, Lead)
    await response_cache.invalidate(database, Selection(tags=(agent,)))
    assert not await cache.keep(lead, answer("The old price."), COST_USD)
    assert isinstance(await cache.look(key), Lead)


@pytest.mark.parametrize(
    "response",
    [
        answer(finish=FinishReason.LENGTH),
        answer(finish=FinishReason.REFUSAL),
        answer("  "),
    ],
    ids=["cut off", "refused", "empty"],
)
async def test_an_answer_that_is_not_whole_is_not_filed(cache: ResponseCache, agent: str, response: Any) -> None:
    key = key_of(asked("When?"), agent=agent)
    lead = await cache.look(key)
    assert isinstance(lead, Lead)
    assert not await cache.keep(lead, response, COST_USD)
    assert isinstance(await cache.look(key), Lead), "its flight has ended"


async def test_no_secret_reaches_the_table(cache: ResponseCache, database: Database, agent: str) -> None:
    key = key_of(asked(f"Is {OFFER} a good key?"), agent=agent)
    lead = await cache.look(key)
    assert isinstance(lead, Lead)
    call = ToolCall(call_id="c1", name="store", arguments=f'{{"key": "{OFFER}"}}')
    assert await cache.keep(lead, answer(f"{OFFER} is good.\x00", tool_calls=(call,), finish=FinishReason.TOOL_CALLS), COST_USD)
    for table in ("cached_responses", "cache_flights", "cache_counts"):
        assert OFFER not in str(await database.fetch(f"select t::text from {table} t"))  # noqa: S608
    hit = await cache.look(key)
    assert isinstance(hit, Hit)
    assert hit.response.text == "[redacted:openai_key] is good."
    assert hit.response.tool_calls[0].arguments == '{"key": "[redacted:openai_key]"}'


async def test_the_counts_tell_hits_misses_and_what_was_saved(database: Database, agent: str) -> None:
    key = key_of(asked("When?"), agent=agent)
    async with worker(database) as cache:
        await file(cache, key)
        for _ in range(3):
            assert isinstance(await cache.look(key), Hit)
        assert await cache.stale(key)
    counted = await database.fetchrow("select exact, semantic, stale, missed, saved_usd from cache_counts where agent = $1", agent)
    assert tuple(counted or ()) == (3, 0, 1, 1, 4 * COST_USD)
    assert await database.fetchval("select hits from cached_responses where key = $1", key.digest) == 4


async def test_what_a_worker_leads_when_it_ends_is_free_at_once(cache: ResponseCache, database: Database, agent: str) -> None:
    key = key_of(asked("When?"), agent=agent)
    async with worker(database) as ending:
        assert isinstance(await ending.look(key), Lead)
        assert await cache.look(key) == Busy()
    assert isinstance(await cache.look(key), Lead)


async def test_the_end_of_a_flight_is_announced(database: Database, cache: ResponseCache, agent: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with database.listener() as connection:
        await connection.add_listener(CHANNEL, lambda *event: heard.put_nowait(str(event[-1])))
        key = key_of(asked("When?"), agent=agent)
        await file(cache, key)
        while await asyncio.wait_for(heard.get(), 10) != key.digest:
            pass


class _Silence:
    """Notices that never come."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def on(self, channel: str, callback: Any) -> None:
        """Forget it."""
