"""Where a client finds its servers, and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from client import endpoints
from client.endpoints import Endpoints
from client.settings import Settings
from workflows.contracts.errors import SettingsError

BOTH = {"TEMPORAL_ADDRESS": "temporal.example:7233", "DATABASE_URL": "postgresql://u:secret@db.example/holdfast"}


def stack(pid: int | None = None) -> Endpoints:
    return Endpoints(
        pid=os.getpid() if pid is None else pid,
        temporal_address="127.0.0.1:7233",
        namespace="default",
        database_url="postgresql://u:secret@127.0.0.1:5432/holdfast",
        ui_url="http://127.0.0.1:8233",
    )


def test_the_environment_says_where_the_servers_are(tmp_path: Path):
    settings = Settings.from_environment({**BOTH, "TEMPORAL_NAMESPACE": "prod", "HOLDFAST_TASK_QUEUE": "gpu"}, tmp_path)

    assert (settings.temporal_address, settings.namespace, settings.task_queue) == ("temporal.example:7233", "prod", "gpu")
    assert settings.database_url == BOTH["DATABASE_URL"]
    assert settings.run_url("r1") is None


def test_a_stack_that_runs_in_the_folder_or_one_above_is_found(tmp_path: Path):
    endpoints.publish(tmp_path / ".holdfast", stack())
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    settings = Settings.from_environment({}, below)

    assert settings.temporal_address == "127.0.0.1:7233"
    assert settings.run_url("r1") == "http://127.0.0.1:8233/namespaces/default/workflows/r1"


def test_a_stack_elsewhere_is_named_by_a_variable(tmp_path: Path):
    endpoints.publish(tmp_path / "data", stack())

    found = Settings.from_environment({"HOLDFAST_DATA": str(tmp_path / "data")}, tmp_path / "nowhere")

    assert found.temporal_address == "127.0.0.1:7233"


def test_without_servers_the_error_names_both_remedies(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"holdfast dev.*TEMPORAL_ADDRESS and DATABASE_URL"):
        Settings.from_environment({}, tmp_path)


def test_a_stack_that_has_ended_is_told_as_such(tmp_path: Path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    endpoints.publish(tmp_path / ".holdfast", stack(ended.pid))

    with pytest.raises(SettingsError, match="no longer runs"):
        Settings.from_environment({}, tmp_path)


@pytest.mark.parametrize("name", BOTH)
def test_half_of_the_servers_is_refused(name: str, tmp_path: Path):
    with pytest.raises(SettingsError, match="set both"):
        Settings.from_environment({name: BOTH[name]}, tmp_path)


def test_half_of_the_servers_is_not_mixed_with_another_stack(tmp_path: Path):
    endpoints.publish(tmp_path / ".holdfast", stack())

    with pytest.raises(SettingsError, match="set both"):
        Settings.from_environment({"DATABASE_URL": BOTH["DATABASE_URL"]}, tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"TEMPORAL_ADDRESS": "localhost"}, "TEMPORAL_ADDRESS must be HOST:PORT"),
        ({"TEMPORAL_ADDRESS": "http://localhost:7233"}, "TEMPORAL_ADDRESS must be HOST:PORT"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL must start with postgresql://"),
        ({"HOLDFAST_LOG_FORMAT": "xml"}, "HOLDFAST_LOG_FORMAT must be one of"),
    ],
)
def test_a_wrong_variable_is_named(change: dict[str, str], named: str, tmp_path: Path):
    with pytest.raises(SettingsError, match=named):
        Settings.from_environment({**BOTH, **change}, tmp_path)


def test_secrets_do_not_show_in_a_settings_repr(tmp_path: Path):
    settings = Settings.from_environment({**BOTH, "TEMPORAL_API_KEY": "very-secret"}, tmp_path)

    assert "secret" not in repr(settings)
    assert "secret" not in repr(stack())


def test_the_file_of_a_stack_is_private_and_withdrawn_by_its_writer_only(tmp_path: Path):
    path = endpoints.publish(tmp_path, stack())
    assert path.stat().st_mode & 0o777 == 0o600

    endpoints.withdraw(tmp_path)
    assert not path.exists()

    endpoints.publish(tmp_path, stack(pid=1))
    endpoints.withdraw(tmp_path)
    assert path.exists()


@pytest.mark.parametrize("body", ["", "{}", "not json", '{"pid": "x"}'])
def test_a_file_that_is_none_of_ours_is_passed_over(body: str, tmp_path: Path):
    (tmp_path / ".holdfast").mkdir()
    (tmp_path / ".holdfast" / "endpoints.json").write_text(body)

    assert endpoints.find({}, tmp_path) is None
