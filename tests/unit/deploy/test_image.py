"""The image's parts: the Dockerfile by reading, its scripts by running them."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from workflows.contracts import policies

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
LAST_STAGE = DOCKERFILE[DOCKERFILE.rindex("\nFROM ") :]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, timeout=20, check=False)


def test_the_image_is_built_in_two_stages_from_the_lock_and_ends_without_build_tools() -> None:
    assert DOCKERFILE.count("\nFROM ") == 2
    assert "uv sync --frozen --no-dev" in DOCKERFILE
    assert not re.search(r"\b(apt|apk|pip|uv|gcc|make)\b", LAST_STAGE)


def test_the_image_runs_as_a_user_that_is_not_root_and_stops_by_sigterm() -> None:
    assert "USER 10001:10001" in LAST_STAGE
    assert "STOPSIGNAL SIGTERM" in LAST_STAGE
    assert "HEALTHCHECK" in LAST_STAGE


def test_the_image_uses_the_uv_of_the_makefile() -> None:
    assert re.search(r"UV_VERSION := (\S+)", (ROOT / "Makefile").read_text())[1] in DOCKERFILE  # type: ignore[index]


def test_all_that_the_build_copies_and_the_wheel_holds_is_let_into_the_build() -> None:
    let_in = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / place).exists() for place in let_in)
    wheel = re.search(r'packages = \[("holdfast".*)\]', (ROOT / "pyproject.toml").read_text())[1]  # type: ignore[index]
    copied = re.findall(r"deploy/\S+\.(?:sh|py)", DOCKERFILE)
    assert {*re.findall(r'"([^"]+)"', wheel), *copied, "pyproject.toml", "uv.lock", "README.md", "LICENSE"} == set(let_in)


def test_the_entry_point_hands_over_a_secret_that_is_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("it's $HOME `x`\n")
    shown = run(str(DEPLOY / "entrypoint.sh"), "env", PGPASSWORD_FILE=str(secret), OTHER="kept")
    assert "PGPASSWORD=it's $HOME `x`" in shown.stdout.splitlines()
    assert "OTHER=kept" in shown.stdout.splitlines()
    assert "PGPASSWORD_FILE" not in shown.stdout


def test_the_entry_point_leaves_a_key_alone_that_is_given_in_the_environment() -> None:
    shown = run(str(DEPLOY / "entrypoint.sh"), "env", OPENAI_API_KEY="given", ANTHROPIC_API_KEY_FILE="")
    assert "OPENAI_API_KEY=given" in shown.stdout.splitlines()
    assert "ANTHROPIC_API_KEY=" not in shown.stdout


def test_the_entry_point_refuses_a_secret_that_is_not_there(tmp_path: Path) -> None:
    refused = run(str(DEPLOY / "entrypoint.sh"), "env", PGPASSWORD_FILE=str(tmp_path / "nothing"))
    assert refused.returncode == 2
    assert "PGPASSWORD_FILE names" in refused.stderr
    assert refused.stdout == ""


def test_the_entry_point_becomes_the_program_so_that_signals_reach_it() -> None:
    shown = run("sh", "-c", f'echo $$; exec "{DEPLOY}/entrypoint.sh" sh -c "echo \\$\\$"')
    before, after = shown.stdout.split()
    assert before == after


def test_new_secrets_are_random_private_and_made_once(tmp_path: Path) -> None:
    script = tmp_path / "new-secrets.sh"
    script.write_text((DEPLOY / "new-secrets.sh").read_text())
    first = run("sh", str(script))
    folder = tmp_path / "secrets"
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert first.returncode == 0
    assert set(made) == {"temporal_db_password", "holdfast_db_password"}
    assert all(re.fullmatch("[0-9a-f]{48}", text) for text in made.values())
    assert len(set(made.values())) == 2
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    run("sh", str(script))
    assert {path.name: path.read_text() for path in folder.iterdir()} == made


def test_git_leaves_secrets_alone() -> None:
    ignored = run("git", "-C", str(ROOT), "check-ignore", "deploy/secrets/x", "deploy/worker.env")
    if ignored.returncode == 128:
        pytest.skip("not a git checkout")
    assert ignored.stdout.split() == ["deploy/secrets/x", "deploy/worker.env"]


@pytest.mark.parametrize("script", sorted(DEPLOY.rglob("*.sh")), ids=lambda path: path.name)
def test_every_shell_script_can_be_read_by_a_posix_shell_and_run(script: Path) -> None:
    assert run("sh", "-n", str(script)).returncode == 0
    assert os.access(script, os.X_OK)


def test_the_systemd_unit_gives_a_worker_longer_to_stop_than_it_gives_its_calls() -> None:
    unit = (DEPLOY / "holdfast-worker@.service").read_text()
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1]) > policies.GRACEFUL_SHUTDOWN_S + 5  # type: ignore[index]
    assert "-m worker --agents" in unit


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "holdfast-worker@.service").read_text()
    copy = tmp_path / "holdfast-worker@.service"
    copy.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", unit, flags=re.MULTILINE))
    verified = run("systemd-analyze", "verify", str(copy))
    assert not [line for line in verified.stderr.splitlines() if "holdfast-worker" in line]
