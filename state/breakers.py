"""Circuit breakers that all workers share: what calls came to, counted together; one probe at a time; what people set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from state import transcripts
from state.pool import Database
from workflows.contracts.inference import BreakerSettings
from workflows.contracts.redaction import redact

CHANNEL = "holdfast_breakers"
"""Where changes are announced, with the scope as payload."""

REASON_CHARS = 200

BreakerState = Literal["closed", "open", "half_open"]
Forced = Literal["open", "closed"]
Probe = Literal["good", "bad", "none", "unsent"]


@dataclass(frozen=True, slots=True)
class Breaker:
    """One breaker as it stood when it was read; times are seconds from then, by the database's clock."""

    scope: str
    state: BreakerState
    reason: str | None
    failure_class: str | None
    consecutive: int
    calls: int
    """In the present window and the one before."""
    failures: int
    failed_ago_s: float | None
    open_for_s: float | None
    """Until a probe is due; below zero when it is."""
    probe_for_s: float | None
    cooling_for_s: float | None
    probe_by: str | None
    forced: Forced | None
    forced_by: str | None
    forced_reason: str | None
    openings: int
    probes: int
    opened_at: datetime | None
    updated_at: datetime


@dataclass(slots=True)
class Outcome:
    """What calls of one scope came to; `add` in the order in which they ended."""

    scope: str
    calls: int = 0
    failures: int = 0
    in_a_row: int = 0
    """Failures after the last good call."""
    good: bool = False
    reason: str | None = None
    failure_class: str | None = None
    trip_s: float | None = None
    """Open at once, for so long."""
    cool_s: float | None = None
    probe: Probe | None = None

    def add(self, later: Outcome) -> None:
        """Take in what came after."""
        self.calls += later.calls
        self.failures += later.failures
        self.in_a_row = later.in_a_row + (0 if later.good else self.in_a_row)
        self.good = self.good or later.good
        self.reason = later.reason or self.reason
        self.failure_class = later.failure_class or self.failure_class
        self.trip_s = later.trip_s or self.trip_s
        self.cool_s = max(filter(None, (self.cool_s, later.cool_s)), default=None)
        self.probe = later.probe or self.probe


async def read_all(database: Database) -> list[Breaker]:
    """Every scope that ever had trouble, by name."""
    return [Breaker(**dict(row)) for row in await database.fetch("select * from breaker_standings order by scope")]


async def record(database: Database, worker: str, outcomes: Sequence[Outcome], settings: BreakerSettings) -> list[Breaker]:
    """Count what a worker's calls came to, in one round trip; how the scopes among them that have breakers stand now."""
    rows = await database.fetch(
        "select * from record_outcomes($1, $2, $3, $4, $5, $6, $7)",
        worker,
        [asdict(outcome) | {"reason": _reason(outcome.reason)} for outcome in outcomes],
        settings.consecutive_failures,
        settings.failure_rate,
        settings.window_s,
        settings.minimum_calls,
        settings.open_s,
    )
    return [Breaker(**dict(row)) for row in rows]


async def claim_probe(database: Database, worker: str, scopes: Sequence[str], lease_s: float) -> list[str] | None:
    """Win the probe of those of the scopes that are due, for this worker and no other; None when one of them must still wait.

    The claim ends after `lease_s` unless it is renewed. An empty list: none of them needs a probe any more.
    """
    claimed: list[str] | None = await database.fetchval("select claim_probe($1, $2, $3)", worker, list(scopes), lease_s)
    return claimed


async def renew_probes(database: Database, worker: str, scopes: Sequence[str], lease_s: float) -> None:
    """Hold the claims of probes that are still in the air for another `lease_s`."""
    await database.execute(
        "update circuit_breakers set probe_until = clock_timestamp() + make_interval(secs => $3) "
        "where scope = any($2) and state = 'half_open' and probe_by = $1",
        worker,
        list(scopes),
        lease_s,
    )


async def probe_now(database: Database, key: str) -> None:
    """Let the open breakers of a key (`key:PROVIDER/KEY`), and of its models, be probed at once; all workers hear of it."""
    await database.execute(
        "with due as (update circuit_breakers set open_until = clock_timestamp(), updated_at = clock_timestamp() "
        "where state = 'open' and (scope = $1 or starts_with(scope, $1 || ':')) returning scope) "
        "select pg_notify($2, scope) from due",
        key,
        CHANNEL,
    )


async def force(database: Database, scope: str, forced: Forced | None, *, by: str, reason: str) -> Breaker:
    """Hold a breaker open or closed by hand, or let the counts decide again (None); all workers hear of it at once."""
    row = await database.fetchrow("select * from force_breaker($1, $2, $3, $4)", scope, forced, by, _reason(reason))
    assert row is not None  # noqa: S101 - the function makes the row
    return Breaker(**dict(row))


def _reason(text: str | None) -> str | None:
    return None if text is None else redact(transcripts.storable(text))[:REASON_CHARS]
