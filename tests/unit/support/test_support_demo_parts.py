"""The demo's parts that need no server: its command line, what a worker is given, what is shown."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from devstack.stack import RunningStack
from examples.support.demo.books import RunState, billed_calls
from examples.support.demo.house import SIMULATED_KEY, House
from examples.support.demo.lead import NAME, asked, decision
from examples.support.demo.options import EXAMPLE, read_options
from examples.support.demo.report import REFUND_LIMIT_USD, Evidence, PeopleBooks, ShopRefund, TicketRun, judge
from examples.support.demo.screen import Screen, final_table, proof_table
from state.inbox import Waiting

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


def test_tools_look_for_the_warehouse_where_it_will_be_and_nowhere_without_one(tmp_path: Path):
    house = House(STACK, tmp_path, None, "queue", warehouse=True)
    assert house.worker_environment(OWN)["WAREHOUSE_URL"] == house.warehouse_url
    assert house.warehouse_url.startswith("http://127.0.0.1:")
    without = House(STACK, tmp_path, None, "queue").worker_environment(OWN | {"WAREHOUSE_URL": "http://somewhere.example"})
    assert without["WAREHOUSE_URL"] == ""


def _waiting(amount_usd: object) -> Waiting:
    return Waiting(
        run_id="run-a",
        call_id="call-1",
        step=9,
        asked=1,
        kind="approval",
        tenant="t",
        agent="refunds",
        tool="refund",
        user="support-01",
        arguments=json.dumps({"order_id": "#W1", "amount_usd": amount_usd}),
        version=1,
        why="",
        context="",
        result=None,
        reason="",
        risk="high",
        named=["@leads"],
        allowed=["mara", "tom"],
        quorum=1,
        not_by_user=False,
        since=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        until=datetime(2026, 1, 3, 3, 4, tzinfo=UTC),
        age_s=2.4,
        reminders=0,
        escalated=False,
        yes=[],
        state="open",
        settled_by=None,
        outcome=None,
        settled_at=None,
    )


@pytest.mark.parametrize(("amount_usd", "signal"), [("54.50", "approve"), (100, "approve"), ("100.01", "reject"), (112.0, "reject")])
def test_the_lead_decides_by_the_amount_and_gives_a_reason_for_a_no(amount_usd: object, signal: str):
    name, body = decision(_waiting(amount_usd))
    assert (name, body["call_id"], body["by"]) == (signal, "call-1", NAME)
    assert ("reason" in body) == (signal == "reject")
    json.dumps(body)


def test_what_waits_is_said_in_words():
    assert asked(_waiting("54.50")) == "refund of 54.50 USD, risk high, has waited 2 s for a yes of @leads until 2026-01-03 03:04"


def test_the_examples_policy_is_the_one_that_the_proof_and_the_lead_go_by():
    approvals = yaml.safe_load((EXAMPLE / "refunds.yaml").read_text(encoding="utf-8"))["approvals"]
    people = yaml.safe_load((EXAMPLE / "people.yaml").read_text(encoding="utf-8"))
    assert approvals["refund"]["when"] == f"amount_usd > {REFUND_LIMIT_USD}"
    assert approvals["refund"]["by"] == ["@leads"]
    assert NAME in people["groups"]["leads"]


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
    people = PeopleBooks(asked=3, approved=2, rejected=1, letters_filed=2, letters_redriven=1, audit_rows=5)
    console.print(proof_table(judge(Evidence(("a", "b"), runs, (), (), refunds, (), (), people))))
    text = shown.getvalue()
    told = ("2 approved, 1 rejected", "dead letters, 1 of them redriven", "made without a yes", "audit record, which holds 5")
    for part in ("(simulated)", "#W1 refunded 5.00 USD", "0.00123", "lost", "refunds done twice, of 2", "tickets lost, of 2", *told):
        assert part in text


def test_a_quoted_line_is_cut_to_the_screen():
    console, shown = _console()
    Screen(console, simulated=True).quote("[x] " + "word " * 50)
    (line,) = shown.getvalue().splitlines()
    assert (len(line), line[:12], line[-1]) == (118, "         [x]", "…")


def test_progress_tells_how_many_only_a_person_can_move_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("examples.support.demo.screen.LINE_EVERY_S", 0)
    console, shown = _console()
    Screen(console, simulated=True).show({}, (TicketRun("a", "run-a", None),), waiting=2, parked=1)
    assert "; 2 wait for a yes, 1 are parked" in shown.getvalue()


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
