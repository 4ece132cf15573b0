"""Opens what the calls of a worker share with those of all others: limiter, breakers, cache, budgets' pressure, the housekeeping."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from activities.inference.alerts import Alerts
from activities.inference.breakers import Breakers
from activities.inference.cache import ResponseCache
from activities.inference.configuration import LiveSettings
from activities.inference.gateway import Shared
from activities.inference.housekeeping import housekeeping
from activities.inference.limiter import Limiter
from activities.inference.pressure import Pressure
from activities.inference.semantic import SemanticCache
from state.notices import Notices
from state.pool import Database
from workflows.contracts.inference import InferenceSettings


@contextlib.asynccontextmanager
async def open_shared(database: Database, notices: Notices, live: LiveSettings) -> AsyncIterator[Shared]:
    """All of it for the length of the block; changed settings are taken over as they come.

    Raises:
        UnavailableError: the database does not answer.
    """
    async with contextlib.AsyncExitStack() as exits:
        alerts = await exits.enter_async_context(Alerts(database, lambda: live.settings.alerts).open())
        limiter = await exits.enter_async_context(Limiter(database, live.settings.limiter).open())
        alert = _once_an_hour(alerts)
        breakers = await exits.enter_async_context(Breakers(database, live.settings.breakers, notices=notices, alert=alert))
        cache = await exits.enter_async_context(ResponseCache(database, notices, lambda: live.settings.cache).open())
        semantic = await exits.enter_async_context(SemanticCache(database, lambda: live.settings.cache, alerts).open())
        pressure = await exits.enter_async_context(Pressure(alerts).watching(database, notices))

        def take(settings: InferenceSettings) -> None:
            limiter.configure(settings.limiter)
            breakers.configure(settings.breakers)
            semantic.configured()

        live.on_change(take)
        await exits.enter_async_context(housekeeping(database, lambda: live.settings.retention))
        yield Shared(limiter=limiter, breakers=breakers, cache=cache, semantic=semantic, pressure=pressure)


def _once_an_hour(alerts: Alerts) -> Any:
    """What breakers tell, once an hour for each breaker."""

    def tell(kind: str, fields: dict[str, Any]) -> None:
        alerts.raise_(kind, str(fields.get("scope", "")), **fields)

    return tell
