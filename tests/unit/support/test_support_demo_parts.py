"""The demo's parts that need no server: its command line, what a worker is given, what is shown."""

from __future__ import annotations

import io
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console

from devstack.stack import RunningStack
from examples.support.demo.books import RunState, billed_calls
from examples.support.demo.house import SIMULATED_KEY, House
from examples.support.demo.options import read_options
from examples.support.demo.report import Evidence, ShopRefund, TicketRun, judge
from examples.support.demo.screen import Screen, final_table, proof_table

STACK = RunningStack(
    temporal_address="127.0.0.1:1", namespace="default", ui_url=None, database_url="postgresql://x", temporal_origin="test"
)
OWN = {"PATH": "/bin", "OPENAI_API_KEY": "a-real-key", "OPENAI_BASE_URL": "https://real.example"}


def test_the_demo_brings_its_own_input_and_prints_a_seed():
    options = read_options([])
    assert (options.tickets.name, options.shop.name) == ("tickets.jsonl", "shop.json")
    assert options.tickets.exists()
    assert options.seed > 0
    assert options.kill


@pytest.mark.parametrize("arguments", [["--model", "gpt-5-mini"], ["--seed", "x"], ["--ticket", "a"]])
def test_a_wrong_command_line_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        read_options(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_simulated_demo_gives_its_worker_no_real_key_and_no_real_address(tmp_path: Path):
    given = House(STACK, tmp_path, None, "queue").worker_environment(OWN)
    assert given["OPENAI_API_KEY"] == given["ANTHROPIC_API_KEY"] == SIMULATED_KEY
    assert "OPENAI_BASE_URL" not in given
    assert (given["PATH"], given["HOLDFAST_TASK_QUEUE"]) == ("/bin", "queue")


def test_a_real_model_gets_the_real_key(tmp_path: Path):
    given = House(STACK, tmp_path, "openai:gpt-5-mini", "queue").worker_environment(OWN)
    assert (given["OPENAI_API_KEY"], given["OPENAI_BASE_URL"]) == ("a-real-key", "https://real.example")


def test_only_billed_requests_count():
    entry = {"idempotency_key": "r:1", "received_at": 1.0, "finished_at": 2.0, "billed": True}
    assert [call.key for call in billed_calls([entry, entry | {"billed": False, "idempotency_key": "r:2"}])] == ["r:1"]


def _console() -> tuple[Console, io.StringIO]:
    shown = io.StringIO()
    return Console(file=shown, width=118), shown


def test_the_tables_mark_what_is_simulated_and_show_every_promise():
    console, shown = _console()
    runs = (TicketRun("a", "run-a", "completed"), TicketRun("b", None, None))
    states = {"run-a": RunState(7, 3, 0, 900, Decimal("0.00123"))}
    console.print(final_table(runs, states, {"run-a": ["#W1 refunded 5.00 USD"]}, simulated=True))
    refunds = (ShopRefund("#W1", "k"), ShopRefund("#W1", "k"))
    console.print(proof_table(judge(Evidence(("a", "b"), runs, (), (), refunds, (), ()))))
    text = shown.getvalue()
    for part in ("(simulated)", "#W1 refunded 5.00 USD", "0.00123", "lost", "refunds done twice, of 2", "tickets lost, of 2"):
        assert part in text


def test_progress_without_a_terminal_comes_as_plain_lines_now_and_then(monkeypatch: pytest.MonkeyPatch):
    console, shown = _console()
    screen = Screen(console, simulated=True)
    states = {"run-a": RunState(7, 3, 1, 900, Decimal("0.5"))}
    with screen.live():
        for _ in range(5):
            screen.show(states, (TicketRun("a", "run-a", None),))
        assert shown.getvalue() == ""
        monkeypatch.setattr("examples.support.demo.screen.LINE_EVERY_S", 0)
        screen = Screen(console, simulated=True)
        screen.show(states, (TicketRun("a", "run-a", None),))
    assert "0 of 1 tickets ended, 3 model answers, 1 in the air, 0.5000 USD, simulated" in shown.getvalue()
