"""The circuit breakers that all workers share: how they stand, and holding one open or closed by hand."""

from __future__ import annotations

import re
from typing import Final

from client.backend import Backend
from client.configuring import DEFAULT_BY, Configuration
from state import breakers
from state.breakers import Breaker, Forced
from workflows.contracts.errors import InvalidInputError

_SCOPE: Final = re.compile(r"provider:(?P<p>[^:/]+)|model:(?P<m>[^:/]+):.+|key:(?P<k>[^:/]+)/[^:/]+(:.+)?")


class BreakerControl:
    """`Orchestrator.breakers`. What is set by hand goes before what workers count, and reaches all of them at once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(self) -> tuple[Breaker, ...]:
        """Every breaker that ever had trouble, or was set by hand, by scope; all others are closed."""
        return tuple(await breakers.read_all(self._backend.database))

    async def open(self, scope: str, *, reason: str, by: str = DEFAULT_BY) -> Breaker:
        """Let no call through until it is said otherwise.

        Args:
            scope: provider:NAME, model:PROVIDER:MODEL, key:PROVIDER/KEY, or key:PROVIDER/KEY:MODEL.
            reason: why; people and delayed runs are told.
            by: who says so.

        Raises:
            InvalidInputError: there is no such scope, or no reason.
        """
        if not reason.strip():
            raise InvalidInputError("Say why the breaker is opened (--reason): runs that are delayed by it tell their people.")
        return await self._force(scope, "open", reason, by)

    async def close(self, scope: str, *, reason: str = "", by: str = DEFAULT_BY) -> Breaker:
        """Let all calls through, whatever comes of them, until it is said otherwise.

        Raises:
            InvalidInputError: there is no such scope.
        """
        return await self._force(scope, "closed", reason, by)

    async def auto(self, scope: str, *, by: str = DEFAULT_BY) -> Breaker:
        """Let what workers count decide again.

        Raises:
            InvalidInputError: there is no such scope.
        """
        return await self._force(scope, None, "", by)

    async def _force(self, scope: str, forced: Forced | None, reason: str, by: str) -> Breaker:
        known = {breaker.scope for breaker in await self.list()}
        if scope not in known:
            await self._refuse_unknown(scope)
        return await breakers.force(self._backend.database, scope, forced, by=by, reason=reason)

    async def _refuse_unknown(self, scope: str) -> None:
        found = _SCOPE.fullmatch(scope)
        if found is None:
            raise InvalidInputError(
                f"{scope!r} is no breaker: name it as provider:NAME, model:PROVIDER:MODEL, key:PROVIDER/KEY or key:PROVIDER/KEY:MODEL."
            )
        provider = found["p"] or found["m"] or found["k"]
        providers = (await Configuration(self._backend).effective()).providers
        if provider not in providers:
            raise InvalidInputError(f"{scope!r}: no provider {provider!r} is configured: name one of {', '.join(sorted(providers))}.")
