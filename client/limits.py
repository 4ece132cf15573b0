"""The limits as they stand, and who waits for them."""

from __future__ import annotations

from dataclasses import dataclass

from state import limits
from state.limits import Limit, Waiting
from state.pool import Database


@dataclass(frozen=True, slots=True)
class LimitsReport:
    """Every limit that was ever asked of, by name; and the steps that wait, soonest first."""

    limits: tuple[Limit, ...]
    waiting: tuple[Waiting, ...]


async def report(database: Database) -> LimitsReport:
    """What stands now."""
    return LimitsReport(tuple(await limits.standing(database)), tuple(await limits.waiting(database)))
