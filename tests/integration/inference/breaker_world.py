"""A database with breakers, workers that share them, and a clock that a test can move."""

from __future__ import annotations

from activities.inference.breakers import Breakers
from state import breakers
from state.breakers import Breaker
from state.pool import Database
from workflows.contracts.inference import BreakerSettings

SETTINGS = BreakerSettings(consecutive_failures=3, failure_rate=0.5, window_s=30, minimum_calls=10, open_s=15, quota_open_s=600)

_TIMES = ("window_start", "failed_at", "opened_at", "open_until", "probe_until", "cooldown_until")


def worker(database: Database, name: str, settings: BreakerSettings = SETTINGS) -> Breakers:
    """One worker's breakers, without its background task: the test says when it writes and reads."""
    return Breakers(database, settings, worker=name)


async def told(*workers: Breakers) -> None:
    """Every worker has written what it knows, then read what there is."""
    for one in workers:
        await one.flush()
    for one in workers:
        await one.refresh()


async def pass_time(database: Database, seconds: float, like: str = "%") -> None:
    """Let the breakers' time go on: everything that was noted lies further back."""
    moved = ", ".join(f"{name} = {name} - make_interval(secs => $1)" for name in _TIMES)
    await database.execute(f"update circuit_breakers set {moved} where scope like $2", seconds, like)  # noqa: S608 - our own names


async def breaker(database: Database, scope: str) -> Breaker | None:
    """How one stands in the database."""
    return next((one for one in await breakers.read_all(database) if one.scope == scope), None)
