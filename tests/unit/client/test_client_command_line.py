"""The command line without servers: how it is called, and how it ends."""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest

from client.command_line import terminal
from client.command_line.exits import ExitCode, exit_code_of
from client.command_line.main import build, dispatch
from client.command_line.scaffold import write_template
from workflows.contracts import errors
from workflows.contracts.errors import SettingsError

NOWHERE = {"TEMPORAL_ADDRESS": "127.0.0.1:1", "DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/x"}
HELP_WITHIN_S = 0.5
COMMANDS = (
    "agents",
    "answer",
    "approvals",
    "approve",
    "audit",
    "breakers",
    "budgets",
    "cache",
    "cancel",
    "change",
    "compare",
    "config",
    "costs",
    "dead-letters",
    "effects",
    "dev",
    "doctor",
    "edit",
    "events",
    "fork",
    "instruct",
    "interrupt",
    "limits",
    "models",
    "new",
    "pause",
    "rebirth",
    "redrive",
    "reject",
    "result",
    "resume",
    "run",
    "runs",
    "show",
    "stop",
    "take-over",
    "worker",
)


@pytest.fixture(autouse=True)
def _no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*NOWHERE, "HOLDFAST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def command(*arguments: str, environ: dict[str, str] | None = None, input_: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `holdfast` as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "client.command_line.main", *arguments],
        input=input_,
        capture_output=True,
        env={**os.environ, **(environ or {})},
        timeout=60,
        check=False,
    )


def test_help_names_every_command_and_takes_less_than_half_a_second_of_processor_time(tmp_path: Path):
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}  # as an installed package is
    command("--help", environ=compiled)
    before_s = _children_s()
    ended = command("--help", environ=compiled)
    took_s = _children_s() - before_s

    assert ended.returncode == 0
    told = ended.stdout.decode()
    for name in COMMANDS:
        assert f" {name} " in told
    assert b"\x1b" not in ended.stdout
    assert took_s < HELP_WITHIN_S


def _children_s() -> float:
    """Processor time of ended children: what a busy machine adds is not ours."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_does_not_wait_for_the_library_of_temporal():
    code = "import sys; from client.command_line.main import dispatch; dispatch(['--help']); sys.exit('temporalio' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0


def test_these_are_all_the_commands():
    assert {name for name in build() if not name.startswith("-")} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_its_options(name: str, capsys: pytest.CaptureFixture[str]):
    assert dispatch([name, "--help"]) == ExitCode.OK
    told = capsys.readouterr().out
    assert "Usage: holdfast" in told
    if name not in ("worker", "config", "dead-letters", "effects"):  # these have commands below them
        assert "--json" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rnu"], "rnu"),
        (["run"], "AGENT"),
        (["run", "a", "text", "--input", "file"], "give one of them"),
        (["run", "a"], "--input - from standard input"),
        (["run", "a", "--input", "none.txt"], "none.txt cannot be read"),
        (["run", "a", "text", "--batch", "x.jsonl"], "--batch takes its inputs"),
        (["runs", "--status", "sleeping"], "waiting_approval"),
        (["runs", "--limit", "many"], "--limit"),
        (["redrive", "r", "--limit", "speed=3"], "cost_usd"),
        (["redrive", "r", "--action", "explode"], "abort"),
        (["dev", "--policy", "x.py:y"], "--simulate"),
        (["dev", "--agents", "nowhere"], "there is no folder nowhere"),
        (["runs"], "start `holdfast dev`, or set TEMPORAL_ADDRESS and DATABASE_URL"),
    ],
)
def test_a_wrong_call_is_one_clear_line_and_ends_with_2(arguments: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert dispatch(arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("holdfast: ")
    assert said in err


def test_an_encoding_that_cannot_show_an_answer_is_no_accident(tmp_path: Path):
    ended = command("new", str(tmp_path / "überall"), environ={"PYTHONIOENCODING": "ascii"})

    assert ended.returncode == 0
    assert b"\\xfcberall" in ended.stdout


def test_the_workers_own_options_can_be_asked_for():
    ended = command("worker", "--", "--help")

    assert ended.returncode == 0
    assert b"python -m worker" in ended.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: Literal["bash", "zsh", "fish"]):
    script = build().generate_completion(shell=shell)

    assert all(name in script for name in COMMANDS)
    assert "key-column" in script


def test_servers_that_do_not_answer_are_named_with_the_remedy_and_end_with_3():
    ended = command("runs", "--json", environ=NOWHERE)

    assert ended.returncode == ExitCode.UNREACHABLE
    assert ended.stdout == b""
    said = ended.stderr.decode()
    assert len(said.splitlines()) == 1
    assert "database" in said
    assert "holdfast dev" in said
    assert "secret" not in said


def test_an_input_that_is_not_utf8_is_refused_before_anything_is_asked():
    ended = command("run", "a", "--input", "-", environ=NOWHERE, input_=b"caf\xe9")

    assert ended.returncode == ExitCode.USAGE
    assert b"standard input is not UTF-8: byte 3" in ended.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UnknownAgentError(), 2),
        (errors.SettingsError(), 2),
        (errors.RunFailedError(), 1),
        (errors.RunCancelledError(), 1),
        (errors.ResultTypeError(), 1),
        (errors.RunParkedError(), 4),
        (errors.UnavailableError(), 3),
        (TimeoutError(), 5),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 141),
        (ZeroDivisionError(), 70),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: BaseException, code: int):
    assert exit_code_of(error) == code


def test_the_table_of_exit_codes_in_the_reference_is_the_one_of_the_code():
    page = (Path(__file__).parents[3] / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")

    for code in ExitCode:
        assert f"| {code.value} |" in page


def test_a_table_in_a_pipe_has_one_line_a_row_and_no_control_codes(capsys: pytest.CaptureFixture[str]):
    terminal.put_table(["id", "said"], [["r1", "two\nlines \x1b[31mred"], ["r2", ""]])

    assert capsys.readouterr().out == "ID  SAID\nr1  two lines [31mred\nr2  -\n"


def test_what_a_model_wrote_cannot_steer_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    terminal.put("safe\x1b]0;title\x07 text\n\ttab", screen)

    assert screen.getvalue() == "safe]0;title text\n\ttab\n"


@pytest.mark.parametrize(("amount", "told"), [("0", "$0.0000"), ("0.00012", "$0.0001"), ("1.5", "$1.50"), (None, "")])
def test_amounts_are_told_with_the_places_that_matter(amount: str | None, told: str):
    assert terminal.usd(None if amount is None else Decimal(amount)) == told


def test_a_new_folder_has_an_agent_a_tool_a_test_and_no_leftover_suffix(tmp_path: Path):
    made = write_template(tmp_path / "mine")

    assert {str(path.relative_to(tmp_path / "mine")) for path in made} == {
        ".gitignore",
        "README.md",
        "agents/assistant.yaml",
        "agents/models.yaml",
        "agents/tools.py",
        "pytest.ini",
        "tests/test_assistant.py",
    }


def test_a_folder_that_has_such_files_is_not_touched(tmp_path: Path):
    kept = tmp_path / "agents" / "tools.py"
    kept.parent.mkdir()
    kept.write_text("mine")

    with pytest.raises(SettingsError, match=r"tools\.py is there already"):
        write_template(tmp_path)

    assert kept.read_text() == "mine"
    assert not (tmp_path / "README.md").exists()


def test_new_prints_json_when_asked(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert dispatch(["new", str(tmp_path / "x"), "--json"]) == ExitCode.OK
    assert len(json.loads(capsys.readouterr().out)["files"]) == 7
