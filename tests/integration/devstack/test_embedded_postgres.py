from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import asyncpg
import pytest
from process_families import alive, exists, family

from devstack import postgres
from devstack.errors import FolderInUseError, FolderUnusableError, PortInUseError, ServerStartError
from devstack.ports import free_port
from devstack.postgres import EmbeddedPostgres, PostgresSettings

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers under another account")


async def fetch(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def until_somebody_sleeps(dsn: str) -> None:
    while not await fetch(dsn, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def run_on(folder: Path | None, *queries: str, port: int = 0) -> list[object]:
    async with EmbeddedPostgres(PostgresSettings(folder=folder, port=port)).running() as server:
        return [await fetch(server.dsn, query) for query in queries]


async def test_an_ephemeral_server_has_vectors_and_letters_and_leaves_nothing() -> None:
    async with EmbeddedPostgres(PostgresSettings()).running() as server:
        folder, pid = server.folder, server.pid
        await fetch(server.dsn, "create extension vector")
        assert await fetch(server.dsn, "select '[1,2]'::vector <-> '[1,4]'::vector") == 2.0
        assert await fetch(server.dsn, "select lower('ÄÉ')") in ("äé", "ÄÉ")  # plain C where the machine has no C.UTF-8
        assert await fetch(server.dsn, "show server_encoding") == "UTF8"
        assert await fetch(server.dsn, "show fsync") == "off"
    assert pid is not None
    assert not alive(pid)
    assert not folder.exists()


async def test_kept_data_is_there_at_the_next_start_and_is_written_through(tmp_path: Path) -> None:
    await run_on(tmp_path, "create table kept as select 42 as answer")
    assert await run_on(tmp_path, "select answer from kept", "show fsync", "show synchronous_commit") == [42, "on", "on"]


async def test_the_address_stays_the_same_on_a_given_port(tmp_path: Path) -> None:
    addresses = []
    port = free_port()
    for _ in range(2):
        async with EmbeddedPostgres(PostgresSettings(folder=tmp_path, port=port)).running() as server:
            addresses.append(server.dsn)
    assert addresses[0] == addresses[1]
    assert f":{port}/" in addresses[0]


async def test_what_was_committed_outlives_a_crash_and_a_stop_in_mid_run() -> None:
    async with EmbeddedPostgres(PostgresSettings()).running() as server:
        dsn, first_pid = server.dsn, server.pid
        await fetch(dsn, "create table kept as select 1 as number")
        await server.kill()
        with pytest.raises(OSError):
            await fetch(dsn, "select 1")
        await server.start()
        assert (server.dsn, server.pid != first_pid) == (dsn, True)
        await fetch(dsn, "insert into kept values (2)")
        await server.stop()
        await server.start()
        assert await fetch(dsn, "select sum(number) from kept") == 3


async def test_a_crash_while_clients_work_leaves_none_of_its_processes_behind() -> None:
    async with EmbeddedPostgres(PostgresSettings()).running() as server:
        connection = await asyncpg.connect(server.dsn)
        busy = asyncio.create_task(connection.execute("select pg_sleep(60)"))
        async with asyncio.timeout(15):
            await until_somebody_sleeps(server.dsn)
        assert server.pid is not None
        processes = family(server.pid)
        assert len(processes) > 3
        await server.kill()
        assert [pid for pid in processes if alive(pid)] == []
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await busy
        await server.start()
        assert await fetch(server.dsn, "select 1") == 1


async def test_nobody_gets_in_without_the_password() -> None:
    async with EmbeddedPostgres(PostgresSettings()).running() as server:
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.dsn, password="guessed")


async def test_a_port_in_use_is_named() -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port}, wanted for PostgreSQL, is in use"):
            await run_on(None, port=port)


async def test_a_second_start_on_the_same_folder_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    told: list[str] = []
    async with EmbeddedPostgres(PostgresSettings(folder=tmp_path)).running() as first:
        second = EmbeddedPostgres(PostgresSettings(folder=tmp_path, lock_wait_s=0.2, on_line=told.append))
        with pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()}, which runs PostgreSQL on it"):
            async with second.running():
                pytest.fail("two servers run on one folder")
        assert await fetch(first.dsn, "select 1") == 1
    assert told == [f"waiting for process {os.getpid()}, which runs PostgreSQL on it"]


async def test_two_starts_at_once_on_a_new_folder_run_one_after_the_other(tmp_path: Path) -> None:
    counts = await asyncio.gather(
        *(run_on(tmp_path, "create table if not exists t (n int)", "insert into t values (1) returning 1") for _ in range(2))
    )
    assert [count[1] for count in counts] == [1, 1]
    assert await run_on(tmp_path, "select count(*) from t") == [2]


async def test_the_pid_file_of_a_crashed_server_whose_number_was_given_away_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_on(tmp_path, "create table kept as select 7 as answer")
    data = tmp_path / "data"
    stranger = await asyncio.create_subprocess_exec("sleep", "600", user=data.stat().st_uid if os.geteuid() == 0 else None)
    try:
        (data / "postmaster.pid").write_text(f"{stranger.pid}\n{data}\n1700000000\n54321\n\n127.0.0.1\n  1 1\nready\n")
        with monkeypatch.context() as patched:
            patched.setattr(postgres, "forget_dead_server", lambda _: None)
            with pytest.raises(ServerStartError, match="already exists"):
                await run_on(tmp_path, "select 1")
        assert await run_on(tmp_path, "select answer from kept") == [7]
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_first_start_that_was_cut_off_is_begun_anew(tmp_path: Path) -> None:
    half_made = tmp_path / "new-abc" / "data"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("16\n")
    assert await run_on(tmp_path, "select 1") == [1]
    assert not half_made.exists()


async def test_data_of_another_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    await run_on(tmp_path, "select 1")
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(FolderUnusableError, match=r"was made by PostgreSQL 9,.*move that folder away"):
        await run_on(tmp_path, "select 1")


async def test_a_lost_password_is_told_with_the_remedy(tmp_path: Path) -> None:
    await run_on(tmp_path, "select 1")
    (tmp_path / "password").unlink()
    with pytest.raises(FolderUnusableError, match=r"password.*cannot be read.*put it back"):
        await run_on(tmp_path, "select 1")


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FolderUnusableError, match=f"{tmp_path / 'file' / 'data'} cannot be made"):
        await run_on(tmp_path / "file" / "data", "select 1")


async def test_broken_data_is_told_with_the_servers_last_words(tmp_path: Path) -> None:
    await run_on(tmp_path, "select 1")
    (tmp_path / "data" / "global" / "pg_control").write_bytes(b"")
    with pytest.raises(ServerStartError, match=r"PostgreSQL did not start.*pg_control"):
        await run_on(tmp_path, "select 1")


@as_root
async def test_root_keeps_data_below_a_folder_closed_to_others(tmp_path: Path) -> None:
    closed = tmp_path / "home"
    closed.mkdir(mode=0o700)
    await run_on(closed / "data", "create table kept as select 1 as answer")
    assert await run_on(closed / "data", "select answer from kept") == [1]
    assert (closed / "data" / "data").stat().st_uid != 0


KEEP_RUNNING = """
async with EmbeddedPostgres(PostgresSettings(folder=Path(sys.argv[1]) if len(sys.argv) > 1 else None)).running() as server:
    ready(server=server.pid, supervisor=server.supervisor_pid, folder=str(server.folder), dsn=server.dsn)
    await asyncio.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["SIGKILL", "SIGTERM", "Ctrl-C"])
async def test_when_the_parent_ends_nothing_is_left(number: int, run_script, eventually) -> None:
    script = await run_script(KEEP_RUNNING)
    processes = family(script.pid)
    assert {script.ready["server"], script.ready["supervisor"]} < set(processes)
    script.process.send_signal(number)
    await eventually(lambda: not any(alive(pid) for pid in processes))
    assert not exists(script.ready["folder"])


async def test_a_killed_parents_data_is_whole_and_free_for_the_next(tmp_path: Path, run_script) -> None:
    script = await run_script(KEEP_RUNNING, str(tmp_path))
    await fetch(script.ready["dsn"], "create table kept as select 5 as answer")
    os.kill(script.pid, signal.SIGKILL)
    assert await run_on(tmp_path, "select answer from kept") == [5]


async def test_a_killed_supervisor_takes_its_server_with_it(run_script, eventually) -> None:
    script = await run_script(KEEP_RUNNING)
    processes = family(script.ready["supervisor"])
    os.kill(script.ready["supervisor"], signal.SIGKILL)
    await eventually(lambda: not any(alive(pid) for pid in processes))
    script.process.send_signal(signal.SIGINT)
    await script.process.wait()
    assert not exists(script.ready["folder"])
