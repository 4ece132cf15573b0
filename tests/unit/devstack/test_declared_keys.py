"""The doctor and the keys that models.yaml declares: where they are read, whether they can be, and never what they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from devstack import declared_keys
from devstack.doctor import DoctorSettings, Finding, examine

SECRET = "key-of-no-worth-4711"
MODELS = """
providers:
  own:
    dialect: openai
    base_url: http://127.0.0.1:9/v1
    keys:
      - {{name: here, env: OWN_KEY}}
      - {{name: gone, env: GONE_KEY}}
      - {{name: filed, file: {folder}/filed}}
      - {{name: empty, file: {folder}/empty}}
      - {{name: vault, command: [{python}, {folder}/vault.py, {secret}]}}
  open: {{dialect: openai, base_url: http://127.0.0.1:9/v1}}
tiers: {{smart: "own:m"}}
"""


@pytest.fixture
def agents(tmp_path: Path) -> Path:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "models.yaml").write_text(MODELS.format(folder=folder, python=sys.executable, secret=SECRET), encoding="utf-8")
    (folder / "filed").write_text(SECRET, encoding="utf-8")
    (folder / "empty").write_text("\n", encoding="utf-8")
    (folder / "vault.py").write_text("import pathlib, sys\npathlib.Path(__file__).with_suffix('.ran').touch()\nprint(sys.argv[1])\n")
    return folder


async def findings(agents: Path, **more: bool) -> dict[str, Finding]:
    environment = {"HOLDFAST_CACHE": str(agents.parent), "PATH": "/usr/bin:/bin", "OWN_KEY": SECRET}
    found = await examine(DoctorSettings(environment=environment, agents=(agents,), **more))
    assert SECRET not in repr(found)
    return {finding.name: finding for finding in found}


async def test_every_declared_key_is_told_by_its_place_and_programs_are_not_run(agents: Path) -> None:
    found = await findings(agents)
    assert {name: (finding.level, finding.detail) for name, finding in found.items() if name.startswith("key ")} == {
        "key own/here": ("ok", "OWN_KEY holds one"),
        "key own/gone": ("warn", "GONE_KEY is not set"),
        "key own/filed": ("ok", f"file {agents}/filed holds one"),
        "key own/empty": ("warn", f"file {agents}/empty is empty"),
        "key own/vault": ("ok", f"command {sys.executable}: not run; --run-commands runs it"),
    }
    assert found["key own/gone"].remedy == "set the variable where the worker runs"
    assert not (agents / "vault.ran").exists()
    assert found["provider keys"].level == "ok", "the built-in variables are not missed"


async def test_programs_are_run_when_that_is_asked_for(agents: Path) -> None:
    found = await findings(agents, run_commands=True)
    assert (agents / "vault.ran").exists()
    assert found["key own/vault"].detail == f"command {sys.executable} holds one"
    (agents / "vault.py").write_text("raise SystemExit(3)")
    found = await findings(agents, run_commands=True)
    assert (found["key own/vault"].level, found["key own/vault"].detail) == ("warn", f"command {sys.executable} ended with 3")


async def test_a_file_that_is_wrong_is_a_failure_that_names_the_field(agents: Path) -> None:
    (agents / "models.yaml").write_text("providers: {own: {dialect: telepathy}}", encoding="utf-8")
    found = await findings(agents)
    assert found["models.yaml"].level == "fail"
    assert "field providers.own.dialect" in found["models.yaml"].detail


async def test_a_look_that_hangs_is_given_up(agents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared_keys, "REPORT", (sys.executable, "-c", "import sys; sys.stdin = None; import time; time.sleep(600)"))
    monkeypatch.setattr(declared_keys, "REPORT_S", 0.2)
    found = await findings(agents)
    assert found["models.yaml"].detail == "the keys could not be looked at (no answer in time)"
