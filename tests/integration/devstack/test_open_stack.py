from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import asyncpg
import pytest
from process_families import alive, exists, family
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest
from temporalio.client import Client

from devstack import search_attributes
from devstack.doctor import DoctorSettings, examine
from devstack.errors import DevStackError, FolderInUseError
from devstack.server_settings import SEARCH_ATTRIBUTES
from devstack.stack import StackSettings, open_stack
from state.migrate import migrations
from workflows.contracts.errors import UnavailableError

PLAIN = {name: value for name, value in os.environ.items() if name not in ("TEMPORAL_ADDRESS", "DATABASE_URL", "TEMPORAL_NAMESPACE")}


async def names_of_applied(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row["name"] for row in await connection.fetch("select name from holdfast_migrations order by name")]
    finally:
        await connection.close()


async def test_a_stack_is_ready_for_runs_and_its_parts_can_go_down_and_up_again() -> None:
    async with open_stack(StackSettings(environment=PLAIN)) as stack:
        assert await names_of_applied(stack.database_url) == [name for name, _ in migrations()]
        client = await Client.connect(stack.temporal_address, namespace=stack.namespace)
        assert await search_attributes.missing(client, SEARCH_ATTRIBUTES) == {}
        described = await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=stack.namespace))
        assert described.config.workflow_execution_retention_ttl.ToTimedelta().days == 30
        assert "password" not in repr(stack)
        assert stack.database_url not in repr(stack)

        await stack.kill_temporal()
        await stack.start_temporal()
        assert await search_attributes.missing(client, SEARCH_ATTRIBUTES) == {}
        await stack.kill_postgres()
        with pytest.raises(OSError):
            await names_of_applied(stack.database_url)
        await stack.start_postgres()
        await stack.stop_postgres()
        await stack.start_postgres()
        assert await names_of_applied(stack.database_url) == [name for name, _ in migrations()]


async def test_a_stack_with_a_data_folder_is_the_same_after_a_restart(tmp_path: Path) -> None:
    settings = StackSettings(data=tmp_path, environment=PLAIN, namespace="shop", ui_port=None)
    async with open_stack(settings) as first:
        assert len(first.migrations_applied) == len(migrations())
        assert (first.namespace, first.ui_url) == ("shop", None)
    async with open_stack(settings) as second:
        assert second.migrations_applied == ()
        with pytest.raises(FolderInUseError):
            async with open_stack(StackSettings(data=tmp_path, environment=PLAIN, lock_wait_s=0.1)):
                pytest.fail("two stacks run on one folder")


async def test_servers_that_are_not_ours_are_used_and_left_alone() -> None:
    async with open_stack(StackSettings(environment=PLAIN)) as ours:
        outside = {**PLAIN, "TEMPORAL_ADDRESS": ours.temporal_address, "DATABASE_URL": ours.database_url}
        async with open_stack(StackSettings(environment=outside)) as theirs:
            assert (theirs.temporal_address, theirs.temporal_origin) == (ours.temporal_address, "TEMPORAL_ADDRESS")
            assert theirs.database_url == ours.database_url
            assert theirs.migrations_applied == ()
            with pytest.raises(DevStackError, match="not ours to stop"):
                await theirs.kill_temporal()
            with pytest.raises(DevStackError, match="not ours to stop"):
                await theirs.kill_postgres()
        findings = {finding.name: finding for finding in await examine(DoctorSettings(environment=outside))}
        assert findings["database"].level == "ok"
        assert "migrations are current" in findings["database"].detail
        assert findings["Temporal"].level == "ok"
        assert await names_of_applied(ours.database_url)


async def test_a_database_that_does_not_answer_is_told_without_its_password() -> None:
    outside = {**PLAIN, "DATABASE_URL": "postgresql://me:hush@127.0.0.1:9/shop"}
    with pytest.raises(UnavailableError, match=r"the database at 127\.0\.0\.1:9/shop cannot be used.*check DATABASE_URL") as raised:
        async with open_stack(StackSettings(environment=outside)):
            pytest.fail("it opened")
    assert "hush" not in str(raised.value)


async def test_a_temporal_that_does_not_answer_is_told() -> None:
    outside = {**PLAIN, "TEMPORAL_ADDRESS": "127.0.0.1:9"}
    with pytest.raises(UnavailableError, match=r"no Temporal server answers at 127\.0\.0\.1:9 \(Connection refused\)"):
        async with open_stack(StackSettings(environment=outside)):
            pytest.fail("it opened")


async def test_the_doctor_names_what_a_database_and_a_server_lack(temporal_program) -> None:
    from devstack.postgres import EmbeddedPostgres, PostgresSettings
    from devstack.temporal import TemporalServer, TemporalSettings

    temporal = TemporalServer(TemporalSettings(program=temporal_program.path, ui_port=None))
    async with EmbeddedPostgres(PostgresSettings()).running() as postgres, temporal.running():
        outside = {**PLAIN, "TEMPORAL_ADDRESS": temporal.address, "DATABASE_URL": postgres.dsn}
        findings = {finding.name: finding for finding in await examine(DoctorSettings(environment=outside))}
    assert (findings["database"].level, findings["Temporal"].level) == ("warn", "fail")
    assert all(name in findings["database"].detail for name, _ in migrations())
    assert "search-attribute create --namespace default --name AgentName --type Keyword" in findings["Temporal"].remedy


STACK = """
async with open_stack(StackSettings(data=Path(sys.argv[1]) if len(sys.argv) > 1 else None)) as stack:
    ready(temporal=stack.temporal.pid, postgres=stack.postgres.pid, address=stack.temporal_address,
          folders=[str(stack.temporal.folder), str(stack.postgres.folder)])
    await asyncio.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["SIGKILL", "SIGTERM", "Ctrl-C"])
async def test_when_the_process_that_opened_it_ends_nothing_of_the_stack_is_left(number: int, run_script, eventually) -> None:
    script = await run_script(STACK, environment=PLAIN)
    processes = family(script.pid)
    assert {script.ready["temporal"], script.ready["postgres"]} < set(processes)
    script.process.send_signal(number)
    await eventually(lambda: not any(alive(pid) for pid in processes))
    assert [folder for folder in script.ready["folders"] if exists(folder)] == []


async def test_ctrl_c_in_the_terminal_reaches_us_alone_and_the_state_is_whole(tmp_path: Path, run_script, eventually) -> None:
    script = await run_script(STACK, str(tmp_path), environment=PLAIN)
    processes = family(script.pid)
    os.kill(script.pid, signal.SIGINT)
    await eventually(lambda: not any(alive(pid) for pid in processes))
    assert "database system is shut down" in (tmp_path / "postgres" / "postgres.log").read_text()
    async with asyncio.timeout(30), open_stack(StackSettings(data=tmp_path, environment=PLAIN)) as stack:
        assert stack.migrations_applied == ()


async def test_a_killed_processs_stack_can_be_opened_again_at_once(tmp_path: Path, run_script) -> None:
    script = await run_script(STACK, str(tmp_path), environment=PLAIN)
    os.kill(script.pid, signal.SIGKILL)
    started = time.monotonic()
    async with open_stack(StackSettings(data=tmp_path, environment=PLAIN)) as stack:
        assert stack.migrations_applied == ()
    assert time.monotonic() - started < 10
