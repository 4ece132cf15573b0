"""The command line on a running `holdfast dev`: what it prints, and how it ends."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.client.shell import Dev, Shell, running_dev, until

MANY = 5


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with running_dev(tmp_path_factory.mktemp("dev") / "data") as running:
        yield running


@pytest.fixture
def shell(dev: Dev) -> Shell:
    return dev.shell


def started(shell: Shell, text: str) -> str:
    ended = shell.run("run", "desk", text, "--no-wait")
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_answer_alone_is_on_standard_output(shell: Shell):
    ended = shell.run("run", "desk", "look")

    assert ended.returncode == 0
    assert ended.stdout == 'You said \'look\'. {"order_id":"W17","state":"delivered"}\n'
    assert ended.stderr.startswith("run desk-")
    assert "simulated" in ended.stderr


def test_input_comes_from_a_file_or_from_standard_input(shell: Shell, tmp_path: Path):
    (tmp_path / "question.txt").write_text("Grüße", encoding="utf-8")

    assert shell.run("run", "desk", "--input", str(tmp_path / "question.txt")).stdout == "You said 'Grüße'.\n"
    assert shell.run("run", "desk", "--input", "-", input_="from a pipe").stdout == "You said 'from a pipe'.\n"


def test_json_is_one_object_with_the_answer_and_what_it_cost(shell: Shell):
    told = shell.json("run", "desk", "hello")

    assert (told["status"], told["answer"], told["simulated"], told["error"]) == ("completed", "You said 'hello'.", True, None)
    assert float(told["totals"]["cost_usd"]) > 0
    assert told["run_id"] in told["url"]


def test_one_key_is_one_run(shell: Shell):
    ids = {shell.run("run", "desk", "x", "--key", "k1", "--no-wait").stdout for _ in range(2)}

    assert len(ids) == 1
    conflict = shell.run("run", "desk", "another", "--key", "k1")
    assert conflict.returncode == 2
    assert "'k1' was used with another body" in conflict.stderr


def test_a_run_that_needs_a_yes_ends_the_command_with_4_and_goes_on_after_it(shell: Shell):
    asked = shell.run("run", "desk", "pay 100")
    run_id = asked.stderr.split()[1]
    shown = shell.run("show", run_id).stdout
    call_id = shell.json("show", run_id)["approvals"][0]["call_id"]

    assert asked.returncode == 4
    assert asked.stdout == ""
    assert f"holdfast approve {run_id} {call_id}" in shown
    assert shell.run("approve", run_id, call_id).returncode == 0
    assert shell.run("result", run_id).stdout == "You said 'pay 100'. W17: 100 USD are paid back\n"


def test_a_no_is_told_to_the_model(shell: Shell):
    run_id = shell.run("run", "desk", "pay 200").stderr.split()[1]

    assert shell.run("reject", run_id, "--reason", "too much").returncode == 0
    assert "too much" in shell.run("result", run_id).stdout


def test_a_parked_run_ends_with_4_says_why_and_can_be_aborted(shell: Shell):
    asked = shell.run("run", "desk", "mumble", "--json")
    told = json.loads(asked.stdout)
    shown = shell.run("show", told["run_id"]).stdout

    assert asked.returncode == 4
    assert (told["status"], told["failure_class"], told["answer"]) == ("parked", "model_behaviour", None)
    assert "parked (model_behaviour)" in shown
    assert "holdfast redrive" in shown
    ended = shell.run("redrive", told["run_id"], "--action", "abort")
    assert ended.returncode == 0
    failed = shell.run("result", told["run_id"])
    assert failed.returncode == 1
    assert "model_behaviour" in failed.stderr


def test_waiting_ends_with_5_and_the_run_goes_on(shell: Shell):
    asked = shell.run("run", "desk", "wait 3", "--timeout", "0.5")
    run_id = asked.stderr.split()[1]

    assert asked.returncode == 5
    assert shell.run("result", run_id).stdout == "You said 'wait 3'. done\n"


def test_a_cancelled_run_ends_with_1(shell: Shell):
    run_id = started(shell, "wait 100")

    assert shell.run("cancel", run_id).returncode == 0
    ended = shell.run("result", run_id)
    assert ended.returncode == 1
    assert "was cancelled" in ended.stderr
    again = shell.run("cancel", run_id)
    assert again.returncode == 2
    assert "ended already" in again.stderr


def test_ctrl_c_ends_the_waiting_and_not_the_run(shell: Shell):
    with shell.begin("run", "desk", "wait 4") as waiting:
        assert waiting.stderr is not None
        run_id = waiting.stderr.readline().split()[1]
        waiting.send_signal(signal.SIGINT)
        said = waiting.stderr.read()

    assert waiting.returncode == 130
    assert f"holdfast result {run_id}" in said
    assert "Traceback" not in said
    assert shell.run("result", run_id).stdout == "You said 'wait 4'. done\n"


def test_a_reader_that_stops_reading_is_no_accident(shell: Shell):
    with shell.begin("runs") as listing:
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        said = listing.stderr.read()

    assert listing.returncode == 141
    assert said == ""


def test_runs_are_listed_and_told_in_full(shell: Shell):
    run_id = started(shell, "look")
    assert shell.run("result", run_id).returncode == 0
    until(lambda: run_id in shell.run("runs", "--status", "completed").stdout)

    line = next(line for line in shell.run("runs").stdout.splitlines() if line.startswith(run_id))
    assert line.split()[1:3] == ["desk", "completed"]
    report = shell.json("show", run_id)
    assert [step["name"] for step in report["steps"]][2] == "find_order"
    shown = shell.run("show", run_id).stdout
    assert "(simulated)" in shown
    assert "total: 3 steps, 2 model calls" in shown


def test_events_are_lines_and_can_be_taken_up_again(shell: Shell):
    run_id = started(shell, "look")

    told = [json.loads(line) for line in shell.run("events", run_id, "--json").stdout.splitlines()]
    rest = shell.run("events", run_id, "--after", told[1]["cursor"], "--json").stdout.splitlines()

    assert [event["step"]["step"] for event in told if event["kind"] == "step"] == [0, 1, 2, 3]
    assert told[-1]["ended"]
    assert [json.loads(line)["step"]["step"] for line in rest if '"kind": "step"' in line] == [
        event["step"]["step"] for event in told[2:] if event["kind"] == "step"
    ]


def test_a_batch_tells_each_result_and_goes_on_where_it_ended(shell: Shell, tmp_path: Path):
    file = tmp_path / "batch.jsonl"
    file.write_text('{"input": "one", "user": "u1"}\n{"input": \n"two"\n"pay 70"\n"look"\n')

    first = shell.run("run", "desk", "--batch", str(file), "--concurrency", "2")
    again = shell.run("run", "desk", "--batch", str(file), "--output", str(tmp_path / "out.jsonl"))

    told = {line["line"]: line for line in map(json.loads, first.stdout.splitlines())}
    assert {number: line["status"] for number, line in told.items()} == {
        1: "completed",
        2: "refused",
        3: "completed",
        4: "parked",
        5: "completed",
    }
    assert told[3]["answer"] == "You said 'two'."
    assert first.returncode == again.returncode == 1
    assert "5 requests: 3 completed, 1 parked, 1 refused" in first.stderr
    assert "line 2, not started: line 2 is no JSON" in first.stderr
    repeated = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert {line["line"]: line["run_id"] for line in repeated} == {number: line["run_id"] for number, line in told.items()}
    assert again.stdout == ""


def test_a_batch_without_trouble_ends_with_0_and_is_one_json_object_when_asked(shell: Shell, tmp_path: Path):
    file = tmp_path / "batch.csv"
    file.write_text("order,input\n1,one\n2,two\n")

    told = shell.json("run", "desk", "--batch", str(file), "--key-column", "order")

    assert (told["total"], told["completed"]) == (2, 2)
    assert {result["key"]: result["answer"] for result in told["results"]} == {"1": "You said 'one'.", "2": "You said 'two'."}


def test_a_batch_that_only_waits_for_people_ends_with_4(shell: Shell, tmp_path: Path):
    file = tmp_path / "batch.jsonl"
    file.write_text('"pay 80"\n')

    assert shell.run("run", "desk", "--batch", str(file)).returncode == 4


def test_an_unknown_agent_is_named_with_those_there_are(shell: Shell):
    ended = shell.run("run", "dask", "x")

    assert ended.returncode == 2
    assert "Did you mean 'desk'?" in ended.stderr
    assert [agent["name"] for agent in shell.json("agents")] == ["desk", "helper"]


def test_doctor_finds_the_stack_that_runs_here(shell: Shell):
    findings = {finding["name"]: finding for finding in shell.json("doctor")}

    assert findings["Temporal"]["level"] == "ok"
    assert findings["database"]["detail"].endswith("migrations are current")


def test_exit_codes_hold_over_many_processes(shell: Shell):
    """A process that used Temporal's library can abort in the interpreter's teardown; ours must not get there."""
    codes = [shell.run("agents").returncode for _ in range(MANY)]
    codes += [shell.run("show", "nobody").returncode for _ in range(MANY)]

    assert codes == [0] * MANY + [2] * MANY


def test_models_and_breakers_are_told_and_a_breaker_is_held_by_hand(shell: Shell):
    started_one = shell.run("run", "desk", "hello")
    assert started_one.returncode == 0, started_one.stderr
    told = shell.json("models")
    used = next(each for each in told["models"] if each["calls"])
    provider = used["name"].partition(":")[0]
    assert told["tiers"]
    assert used["name"] in shell.run("models").stdout
    scope = f"provider:{provider}"
    refused = shell.run("breakers", "open", scope)
    assert (refused.returncode, "--reason" in refused.stderr) == (2, True)
    assert shell.json("breakers", "open", scope, "--reason", "a test", "--by", "ann")["forced"] == "open"
    try:
        assert f"{scope}  held open by ann: a test" in shell.run("breakers").stdout
        assert [each["scope"] for each in shell.json("breakers", "list", scope)] == [scope]
    finally:
        assert shell.run("breakers", "auto", scope).stderr == f"{scope}: closed\n"
