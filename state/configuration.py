"""Versions of the configuration, only ever added, and which worker has which of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from state.pool import Database
from workflows.contracts.documents import Document
from workflows.contracts.errors import ConfigurationConflictError, ConfigurationError

LIVE_S = 75.0
"""A worker that was not seen for so long is gone: it says every `SEEN_EVERY_S` that it is there."""
SEEN_EVERY_S = 25.0
KEPT_DAYS = 1

_VERSIONS = "select version, document, author, reason, rolled_back_to, created_at from configuration_versions"


@dataclass(frozen=True, slots=True)
class Version:
    """One state of the configuration. Version 0 is before the first change: nothing set."""

    version: int
    document: Document
    author: str = ""
    reason: str = ""
    rolled_back_to: int | None = None
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A document to be the next version."""

    document: Document
    author: str
    reason: str
    expected_version: int
    """What the author has looked at: the change is refused when there is a later one by now."""
    rolled_back_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a worker tells of itself: what it works with, and which later version it cannot use."""

    worker: str
    version: int
    refused: int | None
    problem: str | None
    file_settings: Document


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker as it was last seen."""

    worker: str
    version: int
    applied_at: datetime
    seen_at: datetime
    live: bool
    refused: int | None
    problem: str | None
    file_settings: Document


async def current(database: Database) -> Version:
    """The newest version."""
    row = await database.fetchrow(f"{_VERSIONS} order by version desc limit 1")
    return Version(**dict(row)) if row else Version(0, {})


async def newest(database: Database) -> int:
    """The newest version's number."""
    return int(await database.fetchval("select coalesce(max(version), 0) from configuration_versions"))


async def history(database: Database, limit: int = 50) -> list[Version]:
    """The newest versions, newest first."""
    rows = await database.fetch(f"{_VERSIONS} order by version desc limit $1", limit)
    return [Version(**dict(row)) for row in rows]


async def get(database: Database, version: int) -> Version:
    """One version.

    Raises:
        ConfigurationError: there is none of this number.
    """
    if version == 0:
        return Version(0, {})
    row = await database.fetchrow(f"{_VERSIONS} where version = $1", version)
    if row is None:
        raise ConfigurationError(f"There is no version {version} of the configuration: `holdfast config history` lists them.")
    return Version(**dict(row))


async def change(database: Database, wanted: Change) -> int:
    """Add a version and announce it to all workers; its number.

    Raises:
        ConfigurationConflictError: there is a later version than the expected one; nothing was changed.
    """
    row = await database.fetchrow(
        "select * from change_configuration($1, $2, $3, $4, $5)",
        wanted.expected_version,
        wanted.document,
        wanted.author,
        wanted.reason,
        wanted.rolled_back_to,
    )
    assert row is not None  # noqa: S101 - the function gives one row always
    if not row["changed"]:
        raise ConfigurationConflictError(
            f"The configuration was changed by {row['current_author'] or 'nobody'} meanwhile: it is at version "
            f"{row['current_version']}, not {wanted.expected_version}. Look again, and repeat the change if it is still wanted."
        )
    return int(row["current_version"])


async def rollback(database: Database, version: int, author: str, reason: str, expected_version: int) -> int:
    """Add a version with the document of an older one; its number.

    Raises:
        ConfigurationError: there is no such version.
        ConfigurationConflictError: there is a later version than the expected one; nothing was changed.
    """
    old = await get(database, version)
    wanted = Change(document=old.document, author=author, reason=reason, expected_version=expected_version, rolled_back_to=version or None)
    return await change(database, wanted)


async def tell(database: Database, taken: Taken) -> None:
    """Write down what a worker works with, and that it is there; workers that were not seen for a day are forgotten."""
    await database.execute(
        "insert into configuration_workers (worker, version, refused, problem, file_settings, applied_at, seen_at) "
        "values ($1, $2, $3, $4, $5, clock_timestamp(), clock_timestamp()) on conflict (worker) do update set "
        "applied_at = case when configuration_workers.version = excluded.version then configuration_workers.applied_at "
        "else excluded.applied_at end, version = excluded.version, refused = excluded.refused, problem = excluded.problem, "
        "file_settings = excluded.file_settings, seen_at = excluded.seen_at",
        taken.worker,
        taken.version,
        taken.refused,
        taken.problem,
        taken.file_settings,
    )
    await database.execute("delete from configuration_workers where seen_at < clock_timestamp() - make_interval(days => $1)", KEPT_DAYS)


async def leave(database: Database, worker: str) -> None:
    """A worker ends in order: it is no longer live, and what its files said stays known for a day."""
    await database.execute(
        "update configuration_workers set seen_at = least(seen_at, clock_timestamp() - make_interval(secs => $2)) where worker = $1",
        worker,
        LIVE_S,
    )


async def workers(database: Database) -> list[WorkerRow]:
    """Every worker that was seen within a day, by name."""
    rows: list[Any] = await database.fetch(
        "select worker, version, applied_at, seen_at, seen_at > clock_timestamp() - make_interval(secs => $1) as live, "
        "refused, problem, file_settings from configuration_workers order by worker",
        LIVE_S,
    )
    return [WorkerRow(**dict(row)) for row in rows]
