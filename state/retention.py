"""Forgets what is old, a bounded part at a time; never what a run that may still go on could need."""

from __future__ import annotations

from typing import Any, Final

from state.pool import Database

AT_MOST: Final = 1_000
"""Rows of a kind in one round."""


async def forget_old(database: Database, *, books_days: int, notes_days: int, at_most: int = AT_MOST) -> dict[str, int]:
    """One round: how many rows are gone, by kind, where any are. One worker at a time; by the database's clock.

    Args:
        books_days: how long calls, the periods of budgets and the counts of the cache are kept.
        notes_days: how long alerts, cached answers past their time, limits that nobody asks for and keys of ended workers are.
        at_most: rows of a kind.
    """
    gone: dict[str, Any] = await database.fetchval("select forget_old($1, $2, $3)", books_days, notes_days, at_most) or {}
    return {what: int(rows) for what, rows in gone.items() if rows}
