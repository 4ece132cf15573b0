from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from process_families import alive
from temporalio import workflow
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.testing import TimeSkipper
from temporalio.worker import Worker

from devstack import search_attributes
from devstack.errors import DevStackError, FolderInUseError, PortInUseError, ServerStartError
from devstack.server_settings import SEARCH_ATTRIBUTES
from devstack.temporal import TemporalServer, TemporalSettings
from devstack.temporal_program import TemporalProgram

KEYWORD = SearchAttributeKey.for_keyword("AgentName")
NUMBER = SearchAttributeKey.for_float("CostUsd")


@workflow.defn
class Sleeper:
    """Sleeps, so that it is still there after a restart."""

    @workflow.run
    async def run(self, days: int) -> str:
        await workflow.sleep(timedelta(days=days))
        return f"slept {days} days"


def server(program: TemporalProgram, folder: Path | None = None, *, port: int = 0, ui_port: int | None = None) -> TemporalServer:
    return TemporalServer(TemporalSettings(program=program.path, folder=folder, port=port, ui_port=ui_port, lock_wait_s=0.2))


async def test_a_run_can_be_started_the_moment_the_server_is_up_and_the_web_ui_answers(temporal_program) -> None:
    async with server(temporal_program, ui_port=0).running() as running:
        client = await Client.connect(running.address)
        async with Worker(client, task_queue="q", workflows=[Sleeper]):
            assert await client.execute_workflow(Sleeper.run, 0, id="w", task_queue="q") == "slept 0 days"
        assert running.ui_url is not None

        def page() -> str:
            with urllib.request.urlopen(f"{running.ui_url}/", timeout=10) as response:  # noqa: S310 - our own server
                return response.read().decode()

        assert "<!doctype html>" in (await asyncio.to_thread(page)).lower()
        folder, pid = running.folder, running.pid
    assert pid is not None
    assert not alive(pid)
    assert not folder.exists()


async def test_runs_outlive_a_restart_a_crash_and_a_new_start_on_the_same_file(tmp_path: Path, temporal_program) -> None:
    async with server(temporal_program, tmp_path).running() as running:
        client = await Client.connect(running.address)
        await client.start_workflow(Sleeper.run, 30, id="kept", task_queue="q")
        address = running.address
        await running.kill()
        await running.start()
        assert running.address == address
        await running.stop()
        await running.start()
        assert (await client.get_workflow_handle("kept").describe()).status is not None
    async with server(temporal_program, tmp_path).running() as running:
        client = await Client.connect(running.address)
        assert (await client.get_workflow_handle("kept").describe()).id == "kept"


async def test_search_attributes_come_to_a_database_file_that_exists_already(tmp_path: Path, temporal_program, eventually) -> None:
    async with server(temporal_program, tmp_path).running() as running:
        client = await Client.connect(running.address)
        assert set(await search_attributes.missing(client, SEARCH_ATTRIBUTES)) == set(SEARCH_ATTRIBUTES)
    async with server(temporal_program, tmp_path).running() as running:
        client = await Client.connect(running.address)
        assert set(await search_attributes.ensure(client, SEARCH_ATTRIBUTES)) == set(SEARCH_ATTRIBUTES)
        assert await search_attributes.ensure(client, SEARCH_ATTRIBUTES) == []
        wanted = TypedSearchAttributes([SearchAttributePair(KEYWORD, "support"), SearchAttributePair(NUMBER, 0.25)])
        await client.start_workflow(Sleeper.run, 1, id="found", task_queue="q", search_attributes=wanted)
        found: list[str] = []
        give_up = time.monotonic() + 15
        while not found and time.monotonic() < give_up:
            found = [run.id async for run in client.list_workflows("AgentName = 'support' and CostUsd > 0.2")]
        assert found == ["found"]


async def test_search_attributes_can_be_made_by_several_at_once(temporal_program) -> None:
    async with server(temporal_program).running() as running:
        client = await Client.connect(running.address)
        await asyncio.gather(*(search_attributes.ensure(client, SEARCH_ATTRIBUTES) for _ in range(4)))
        assert await search_attributes.missing(client, SEARCH_ATTRIBUTES) == {}
        with pytest.raises(DevStackError, match="AgentName that is not a Double"):
            await search_attributes.ensure(client, {"AgentName": "Double"})


async def test_thirty_days_of_sleep_end_in_seconds(temporal_program) -> None:
    async with server(temporal_program).running() as running:
        client = await Client.connect(running.address)
        skipping = TimeSkipper(client).client
        async with Worker(client, task_queue="q", workflows=[Sleeper]), asyncio.timeout(20):
            assert await skipping.execute_workflow(Sleeper.run, 30, id="w", task_queue="q") == "slept 30 days"


@pytest.mark.parametrize("which", ["port", "ui_port"])
async def test_a_port_in_use_is_named_with_the_remedy(which: str, temporal_program) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as other:
        taken = other.sockets[0].getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {taken}, wanted for the Temporal.*is in use.*choose another port"):
            async with server(temporal_program, **{which: taken}).running():
                pytest.fail("it started")


async def test_the_program_itself_tells_a_port_in_use_in_one_line(tmp_path: Path, temporal_program) -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as other:
        taken = other.sockets[0].getsockname()[1]
        status, output = await run_program(temporal_program, "server", "start-dev", f"--port={taken}", "--headless")
    assert status != 0
    assert str(taken) in output
    assert len(output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["server", "start-dev", "--dynamic-config-value=no-value"], "KEY="),
        (["server", "start-dev", "--db-filename=/no/such/folder/t.db", "--port=1024"], "folder"),
        (["server", "start-dev", "--search-attribute=Name=Nonsense"], "Nonsense"),
        (["server", "start-dev", "--no-such-flag"], "no-such-flag"),
    ],
)
async def test_wrong_flags_are_told(arguments: list[str], expected: str, temporal_program) -> None:
    if "devserver" not in temporal_program.version:
        pytest.skip("the Temporal CLI has messages of its own")
    status, output = await run_program(temporal_program, *arguments)
    assert status != 0
    assert expected in output


async def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path, temporal_program) -> None:
    async with server(temporal_program, tmp_path).running():
        with pytest.raises(FolderInUseError, match=f"in use by process {os.getpid()}, which runs the Temporal server"):
            async with server(temporal_program, tmp_path).running():
                pytest.fail("two servers run on one file")


async def test_a_file_that_is_no_database_is_told(tmp_path: Path, temporal_program) -> None:
    (tmp_path / "temporal.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(ServerStartError, match=r"the Temporal server did not start.*not a database"):
        async with server(temporal_program, tmp_path).running():
            pytest.fail("it started")


async def test_sigterm_ends_the_server_in_order(tmp_path: Path, temporal_program, eventually) -> None:
    async with server(temporal_program, tmp_path).running() as running:
        assert running.pid is not None
        process = psutil.Process(running.pid)
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: running.pid is None)
        await running.start()
        assert running.pid != process.pid


async def test_a_program_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "temporal").write_text("not a program")
    (tmp_path / "temporal").chmod(0o755)
    broken = TemporalProgram(tmp_path / "temporal", "broken", "0")
    with pytest.raises(ServerStartError, match=r"the Temporal server could not be run.*Exec format error"):
        async with server(broken, tmp_path / "data").running():
            pytest.fail("it started")


async def run_program(program: TemporalProgram, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        program.path, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, output.decode()
