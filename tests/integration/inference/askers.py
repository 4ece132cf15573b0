"""Requests, answers and workers for the tests of the response cache; run as a program it is a leader that waits to be killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

from activities.inference.cache import Busy, Lead, ResponseCache
from activities.inference.cache_keys import Asker, cache_key
from state.notices import Notices
from state.pool import Database
from state.response_cache import CacheKey, Hit
from workflows.contracts.agents import Cache
from workflows.contracts.inference import CacheSettings
from workflows.contracts.messages import FinishReason, Message, ModelRequest, ModelResponse, Role, Usage

COST_USD = Decimal("0.02")
FOLLOW_S = 30.0


def asked(*said: str | Message, **fields: Any) -> ModelRequest:
    """A request: plain text is the user's."""
    messages = tuple(Message(role=Role.USER, text=each) if isinstance(each, str) else each for each in said)
    system = Message(role=Role.SYSTEM, text="Help.")
    return ModelRequest(**{"model": "gpt-5", "messages": (system, *messages), "max_output_tokens": 100, "idempotency_key": "r:1"} | fields)


def answer(text: str = "Tomorrow.", **fields: Any) -> ModelResponse:
    """A whole answer."""
    return ModelResponse(
        **{"model": "gpt-5", "text": text, "finish": FinishReason.STOP, "usage": Usage(input_tokens=90, output_tokens=9)} | fields
    )


def key_of(
    request: ModelRequest, *, agent: str, tenant: str = "t1", user: str | None = None, model: str = "smart", **cache: Any
) -> CacheKey:
    """The key under which an agent's answer is filed."""
    key = cache_key(request, model, Cache(**{"ttl_s": 60, **cache}), Asker(tenant, agent, user))
    assert key is not None
    return key


@contextlib.asynccontextmanager
async def worker(database: Database, settings: CacheSettings | None = None, **options: Any) -> AsyncIterator[ResponseCache]:
    """A response cache with a listener of its own, as a worker process has."""
    notices = Notices(database)
    cache = ResponseCache(database, notices, lambda: settings or CacheSettings(), **options)
    async with notices.open(), cache.open():
        yield cache


async def until_had(cache: ResponseCache, key: CacheKey) -> Hit | Lead:
    """What the gateway does: look, and follow whoever is ahead."""
    while True:
        found = await cache.look(key)
        if not isinstance(found, Busy):
            return found
        if hit := await cache.follow(key, FOLLOW_S):
            return hit


async def _lead_until_killed() -> None:
    async with Database.open(os.environ["DATABASE_URL"]) as database, worker(database, lease_s=float(os.environ["LEASE_S"])) as cache:
        found = await cache.look(key_of(asked(os.environ["QUESTION"]), agent=os.environ["AGENT"]))
        sys.stdout.write(f"{type(found).__name__}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_lead_until_killed())
