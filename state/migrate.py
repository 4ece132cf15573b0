"""Applies the numbered SQL migrations, each once, in order, under a lock."""

from __future__ import annotations

import hashlib
from importlib import resources

import asyncpg

from state.pool import CONNECT_TIMEOUT_S, outages_named
from workflows.contracts.errors import HoldfastError

LOCK_KEY = 0x686F_6C64_6661_7374
"""The advisory lock that makes it safe for any number of processes to migrate at once."""


class MigrationError(HoldfastError):
    """The database's migrations do not fit this version of Holdfast."""


def migrations() -> list[tuple[str, str]]:
    """Every migration shipped with this version as (name, SQL), in the order of application."""
    folder = resources.files("state") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(name.removesuffix(".sql"), (folder / name).read_text(encoding="utf-8")) for name in names]


async def pending(connection: asyncpg.Connection) -> list[str]:
    """The names of migrations that the database has not seen; reads only."""
    known = await connection.fetchval("select to_regclass('public.holdfast_migrations') is not null")
    done = {row["name"] for row in await connection.fetch("select name from holdfast_migrations")} if known else set()
    return [name for name, _ in migrations() if name not in done]


async def migrate(dsn: str) -> list[str]:
    """Bring the database up to date and return the names that were applied.

    Raises:
        MigrationError: an applied migration has other content now, or was made by a newer Holdfast.
        DatabaseUnavailableError: the database does not answer.
        SettingsError: it refuses the user, the password or the name in `dsn`.
    """
    with outages_named():
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
    try:
        await connection.execute("select pg_advisory_lock($1)", LOCK_KEY)
        await connection.execute(
            "create table if not exists holdfast_migrations "
            "(name text primary key, digest text not null, applied_at timestamptz not null default now())"
        )
        done = {row["name"]: row["digest"] for row in await connection.fetch("select name, digest from holdfast_migrations")}
        shipped = migrations()
        _refuse_strangers(done, shipped)
        applied = []
        for name, sql in shipped:
            if name in done:
                continue
            async with connection.transaction():
                await connection.execute(sql)
                await connection.execute("insert into holdfast_migrations (name, digest) values ($1, $2)", name, _digest(sql))
            applied.append(name)
        return applied
    finally:
        await connection.close()


def _digest(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()


def _refuse_strangers(done: dict[str, str], shipped: list[tuple[str, str]]) -> None:
    contents = dict(shipped)
    for name, digest in done.items():
        if name not in contents:
            raise MigrationError(f"The database has migration {name}, which this version does not know: upgrade Holdfast.")
        if digest != _digest(contents[name]):
            raise MigrationError(f"Migration {name} was applied with other content: restore the file; changes go into a new migration.")
