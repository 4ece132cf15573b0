"""`holdfast dev`: it keeps what it had, and leaves nothing running however it ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client import endpoints
from tests.integration.client.conftest import AGENTS
from tests.integration.client.shell import Shell, running_dev, until

pytestmark = pytest.mark.slow


def test_ctrl_c_leaves_nothing_running_and_the_next_start_has_what_was_there(tmp_path: Path):
    data = tmp_path / "data"
    with running_dev(data) as dev:
        run_id = dev.shell.json("run", "desk", "look")["run_id"]
        unfinished = dev.shell.run("run", "desk", "pay 100", "--no-wait").stdout.strip()
        code, left = dev.end(signal.SIGINT)
        assert (code, left) == (0, [])
        assert endpoints.find({"HOLDFAST_DATA": str(data)}) is None
        assert dev.shell.run("runs").returncode == 2

    with running_dev(data) as dev:
        assert dev.shell.json("result", run_id)["answer"].startswith("You said 'look'.")
        until(lambda: dev.shell.json("show", unfinished)["approvals"] != [])
        assert dev.shell.run("approve", unfinished).returncode == 0
        assert dev.shell.run("result", unfinished).returncode == 0
        second = dev.shell.run("dev", "--no-worker", "--port", "0", "--ui-port", "0")
        assert second.returncode == 3
        assert str(data) in second.stderr
        code, left = dev.end(signal.SIGKILL)

    assert (code, left) == (-signal.SIGKILL, [])
    told = Shell(data).run("runs")
    assert told.returncode == 2
    assert "no longer runs" in told.stderr


def test_a_worker_that_is_killed_is_started_again_and_runs_go_on(tmp_path: Path):
    with running_dev(tmp_path / "data") as dev:
        killed = dev.worker()
        run_id = dev.shell.run("run", "desk", "wait 2", "--no-wait").stdout.strip()
        killed.kill()

        assert dev.shell.run("result", run_id).stdout == "You said 'wait 2'. done\n"
        assert dev.worker().pid != killed.pid
        assert "The worker ended with status -9" in dev.log.read_text()


def test_a_definition_that_is_wrong_ends_it_with_the_place_and_the_remedy(tmp_path: Path):
    shutil.copytree(AGENTS, tmp_path / "agents")
    desk = tmp_path / "agents" / "desk.yaml"
    desk.write_text(desk.read_text().replace("find_order", "find_ordr"))

    ended = Shell(tmp_path / "data").run("dev", "--port", "0", "--ui-port", "0", "--agents", str(tmp_path / "agents"))

    assert ended.returncode == 1
    assert "desk.yaml:6" in ended.stderr
    assert "find_order" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_a_port_that_is_taken_is_named(tmp_path: Path):
    with running_dev(tmp_path / "data", "--no-worker") as dev:
        port = dev.ready["temporal_address"].rpartition(":")[2]
        other = Shell(tmp_path / "other").run("dev", "--no-worker", "--port", port)

    assert other.returncode == 3
    assert f"port {port}" in other.stderr


def test_a_worker_of_its_own_serves_beside_it(tmp_path: Path):
    with running_dev(tmp_path / "data", "--no-worker") as dev:
        shell = dev.shell
        assert shell.json("agents") == []
        worker = shell.begin("worker", "--agents", str(AGENTS))
        with worker:
            try:
                until(lambda: len(shell.json("agents")) == 2)
                assert shell.json("runs") == []
            finally:
                worker.send_signal(signal.SIGTERM)
                worker.wait(60)
    assert worker.returncode == 0


def test_the_folder_that_new_makes_has_a_test_that_passes(tmp_path: Path):
    shell = Shell(tmp_path / "data")
    assert shell.run("new", str(tmp_path / "mine")).returncode == 0

    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "mine",
        env=shell.environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 passed" in ended.stdout
