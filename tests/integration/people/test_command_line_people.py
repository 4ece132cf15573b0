"""What people type: the inbox, one decision or many, run control, the record; and how each command ends."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration.client.shell import Dev, Shell, running_dev, until


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with running_dev(tmp_path_factory.mktemp("people") / "data") as running:
        yield running


@pytest.fixture
def shell(dev: Dev) -> Shell:
    return dev.shell


def asked(shell: Shell, user: str) -> tuple[str, str]:
    """(run, call) of a run that waits for a yes, once the inbox has it."""
    started = shell.run("run", "desk", "pay 100", "--no-wait", "--user", user)
    assert started.returncode == 0, started.stderr
    run_id = started.stdout.strip()
    until(lambda: len(shell.json("approvals", run_id)) == 1)
    return run_id, shell.json("approvals", run_id)[0]["call_id"]


def test_the_inbox_lists_what_waits_and_tells_all_of_one(shell: Shell) -> None:
    run_id, call_id = asked(shell, "lists")

    listed = shell.run("approvals", "--user", "lists")
    shown = shell.run("approvals", run_id, "--show", call_id).stdout

    assert listed.stdout.splitlines()[0].split()[:3] == ["RUN", "CALL", "AGENT"]
    assert run_id in listed.stdout
    assert "refund" in listed.stdout
    for line in ("arguments: {", "(version 1)", "the user said: pay 100", "risk: medium", "asked of: anybody"):
        assert line in shown
    assert shell.json("approvals", "--user", "nobody") == []
    assert shell.run("approvals", "--show", call_id).returncode == 2
    assert shell.run("stop", run_id).returncode == 0


def test_an_edit_is_a_yes_to_other_arguments_and_the_record_tells_it(shell: Shell) -> None:
    run_id, call_id = asked(shell, "edits")

    assert "is not JSON" in shell.run("edit", run_id, call_id, "{amount: 60}").stderr
    refused = shell.run("edit", run_id, call_id, '{"order_id": "W17"}', "--by", "ann")
    assert (refused.returncode, "amount_usd" in refused.stderr) == (2, True)
    told = shell.json("edit", run_id, call_id, '{"order_id": "W99", "amount_usd": "60"}', "--by", "ann")
    assert (told["ordered"], told["outcome"]) == ("edit", "accepted")
    assert "60" in shell.run("result", run_id).stdout

    late = shell.run("approve", run_id, call_id)
    assert (late.returncode, "has ended already" in late.stderr) == (2, True)
    until(lambda: len(shell.json("audit", run_id)) == 3)
    audit = shell.json("audit", run_id)
    assert [(each["order"], each["outcome"], each["version"]) for each in audit] == [
        ("edit", "refused", 1),
        ("edit", "accepted", 2),
        ("approve", "refused", None),
    ]
    assert "ann" in shell.run("audit", run_id).stdout


def test_many_are_decided_at_once_only_when_that_is_confirmed(shell: Shell) -> None:
    runs = [asked(shell, "many")[0] for _ in range(3)]

    unconfirmed = shell.run("reject", "--all", "--user", "many")
    assert (unconfirmed.returncode, "add --yes" in unconfirmed.stderr) == (2, True)
    assert "Nothing waits" in shell.run("approve", "--all", "--user", "nobody at all", "--yes").stderr
    assert shell.run("approve", "--user", "many").returncode == 2
    done = shell.json("reject", "--all", "--user", "many", "--yes", "--rate", "50", "--reason", "not today")

    assert (done["held"], done["refused"]) == (3, [])
    assert all("not today" in shell.run("result", run_id).stdout for run_id in runs)


def test_a_run_is_paused_changed_resumed_and_taken_over(shell: Shell) -> None:
    run_id, _ = asked(shell, "control")

    assert "accepted" in shell.run("pause", run_id, "--by", "ann").stderr
    assert shell.json("pause", run_id)["outcome"] == "duplicate"
    assert shell.json("change", run_id, "--limit", "cost_usd=2.50", "--model", "fast")["outcome"] == "accepted"
    assert shell.run("change", run_id, "--limit", "money=1").returncode == 2
    assert shell.run("change", run_id).returncode == 2
    assert shell.json("resume", run_id)["outcome"] == "accepted"
    assert shell.json("instruct", run_id, "Be kind.")["outcome"] == "accepted"
    assert shell.json("take-over", run_id, "I have called the customer.", "--by", "ann")["outcome"] == "accepted"

    assert shell.run("result", run_id).stdout == "I have called the customer.\n"
    assert json.loads(shell.run("audit", run_id, "--json").stdout)[-1]["order"] == "take_over"
