"""What model calls cost, over time and by anything that the ledger knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from state import costs
from state.costs import CostLine, Forecast, Selected
from state.pool import Database
from workflows.contracts.errors import InvalidInputError

LAST: timedelta = timedelta(days=1)
"""How far back costs are told where nothing else is said."""


@dataclass(frozen=True, slots=True)
class CostReport:
    """The lines, what they come to, and what the UTC day of now will."""

    by: tuple[str, ...]
    lines: tuple[CostLine, ...]
    total: CostLine
    forecast: Forecast


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which costs are asked for; `since` is a moment, or so far back from now."""

    by: Sequence[str] = ("agent",)
    since: datetime | timedelta = LAST
    until: datetime | None = None
    agent: str | None = None
    tenant: str | None = None
    user: str | None = None
    model: str | None = None
    run: str | None = None


async def report(database: Database, wanted: Wanted) -> CostReport:
    """Read the ledger.

    Raises:
        InvalidInputError: costs cannot be told by one of `by`, it is named twice, or a moment has no time zone.
    """
    which = _selected(wanted)
    by = tuple(wanted.by)
    found = await costs.lines(database, by, which)
    (total,) = await costs.lines(database, (), which) or [_NOTHING]
    return CostReport(by, tuple(found), total, await costs.forecast(database, which))


def _selected(wanted: Wanted) -> Selected:
    for name in wanted.by:
        if name not in costs.DIMENSIONS:
            raise InvalidInputError(f"by: costs are not told by {name!r}; they are by {', '.join(costs.DIMENSIONS)}.")
        if list(wanted.by).count(name) > 1:
            raise InvalidInputError(f"by: {name!r} is named twice: name it once.")
    for field, moment in (("since", wanted.since), ("until", wanted.until)):
        if isinstance(moment, datetime) and moment.tzinfo is None:
            raise InvalidInputError(f"{field}: {moment} has no time zone: give one, as in datetime(…, tzinfo=UTC).")
    since = wanted.since
    return Selected(
        since=since if isinstance(since, datetime) else None,
        last=since if isinstance(since, timedelta) else None,
        until=wanted.until,
        agent=wanted.agent,
        tenant=wanted.tenant,
        user=wanted.user,
        model=wanted.model,
        run=wanted.run,
    )


_ZERO = Decimal(0)
_NOTHING = CostLine((), 0, 0, 0, 0, 0, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO)
