"""The response cache as its owner sees it: what it saved, what is in it, and throwing answers away."""

from __future__ import annotations

from dataclasses import dataclass

from client.backend import Backend
from state import cache_reports, response_cache
from state.cache_reports import CacheCount, CacheFlight
from state.response_cache import LIST_LIMIT, CachedEntry, Selection
from workflows.contracts.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What came of looking, by agent, and who asks a model right now. Workers write their counts down every few seconds."""

    agents: tuple[CacheCount, ...]
    flights: tuple[CacheFlight, ...]


class CacheControl:
    """`holdfast.cache` of an orchestrator."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def stats(self) -> CacheReport:
        """Hits, misses and saved money by agent, and the flights of this moment."""
        database = self._backend.database
        return CacheReport(tuple(await cache_reports.counts(database)), tuple(await cache_reports.flights(database)))

    async def list(
        self, *, agent: str | None = None, tenant: str | None = None, tags: tuple[str, ...] = (), limit: int = LIST_LIMIT
    ) -> tuple[CachedEntry, ...]:
        """Answers that are good now, newest first, without their content; of several tags one is enough."""
        which = Selection(tenant=tenant, agent=agent, tags=tags)
        return tuple(await cache_reports.entries(self._backend.database, which, limit))

    async def invalidate(
        self,
        *,
        agent: str | None = None,
        tenant: str | None = None,
        key: str | None = None,
        tags: tuple[str, ...] = (),
        everything: bool = False,
    ) -> int:
        """Throw answers away, and keep those in the air from being filed; gives how many were thrown away.

        All that is given must hold; of several tags one is enough.

        Raises:
            InvalidInputError: nothing was given, and `everything` was not said; or both were.
        """
        which = Selection(tenant=tenant, agent=agent, key=key, tags=tags)
        if everything == (which != Selection()):
            raise InvalidInputError("Say which answers to throw away: by tag, agent, tenant or key, or everything; not both.")
        return await response_cache.invalidate(self._backend.database, which)
