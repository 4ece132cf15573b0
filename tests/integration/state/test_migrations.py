"""Migrations are applied once each, by however many processes at once, and never to a database that they do not fit."""

from __future__ import annotations

import asyncio
import json
import sys

import asyncpg
import pytest

from state import migrate
from state.migrate import MigrationError, migrations, pending

NAMES = [name for name, _ in migrations()]
APPLY = "import asyncio, json, sys; from state.migrate import migrate; print(json.dumps(asyncio.run(migrate(sys.argv[1]))))"


async def apply(dsn: str) -> list[str]:
    """Migrate from a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", APPLY, dsn, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    applied = json.loads(out)
    assert isinstance(applied, list)
    return applied


async def test_eight_processes_at_once_apply_every_migration_once(new_database_url: str) -> None:
    applied = await asyncio.gather(*(apply(new_database_url) for _ in range(8)))
    assert sorted(applied) == [[]] * 7 + [NAMES]
    assert await migrate.migrate(new_database_url) == []


async def test_a_new_database_says_what_it_lacks_and_stays_untouched_by_the_question(new_database_url: str) -> None:
    connection = await asyncpg.connect(new_database_url)
    try:
        assert await pending(connection) == NAMES
        assert await connection.fetchval("select count(*) from pg_tables where schemaname = 'public'") == 0
        await migrate.migrate(new_database_url)
        assert await pending(connection) == []
    finally:
        await connection.close()


async def test_a_migration_that_was_changed_after_it_was_applied_is_refused(guarded_url: str) -> None:
    connection = await asyncpg.connect(guarded_url)
    try:
        await connection.execute("update holdfast_migrations set digest = 'other' where name = $1", NAMES[0])
    finally:
        await connection.close()
    with pytest.raises(MigrationError, match=f"{NAMES[0]} was applied with other content: restore the file"):
        await migrate.migrate(guarded_url)


async def test_a_database_of_a_newer_version_is_refused(guarded_url: str) -> None:
    connection = await asyncpg.connect(guarded_url)
    try:
        await connection.execute("insert into holdfast_migrations (name, digest) values ('9999_later', 'x')")
    finally:
        await connection.close()
    with pytest.raises(MigrationError, match="9999_later, which this version does not know: upgrade Holdfast"):
        await migrate.migrate(guarded_url)


async def test_a_migration_that_fails_leaves_nothing_of_itself(new_database_url: str) -> None:
    connection = await asyncpg.connect(new_database_url)
    try:
        await connection.execute("create table blobs (unlike_ours integer)")
        with pytest.raises(asyncpg.DuplicateTableError):
            await migrate.migrate(new_database_url)
        assert await connection.fetchval("select to_regclass('runs')") is None
        assert await pending(connection) == NAMES
        await connection.execute("drop table blobs")
        assert await migrate.migrate(new_database_url) == NAMES
    finally:
        await connection.close()


def test_migrations_are_numbered_without_gaps() -> None:
    assert [name[:4] for name in NAMES] == [f"{number:04}" for number in range(1, len(NAMES) + 1)]
