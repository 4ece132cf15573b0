"""`holdfast fork`, `rebirth` and `compare` on a running `holdfast dev`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.client.shell import Shell, running_dev


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with running_dev(tmp_path_factory.mktemp("dev") / "data") as running:
        yield running.shell


def ran(shell: Shell, text: str) -> str:
    """The id of a run that has ended."""
    told: str = shell.json("run", "desk", text)["run_id"]
    return told


def test_a_fork_prints_its_id_and_how_to_compare_it(shell: Shell):
    run = ran(shell, "look")

    forked = shell.run("fork", run, "--from-step", "3")
    new = forked.stdout.split()[1]

    assert forked.returncode == 0
    assert forked.stdout == f"Run {new} is forked from {run} at step 3. Compare them: holdfast compare {run} {new}\n"
    assert shell.run("result", new).stdout == shell.run("result", run).stdout
    shown = shell.run("show", new).stdout
    assert f"  forked from {run} at step 3\n" in shown
    assert "(shared)" in shown
    assert f"{new}: forked from {run} at step 3" in shell.run("runs").stdout


def test_a_fork_with_changes_can_be_waited_for(shell: Shell):
    run = ran(shell, "pay 20")

    asked = ("fork", run, "--from-step", "2", "--arguments", '{"order_id": "W18", "amount_usd": 30}')
    ended = shell.run(*asked, "--limit", "steps=10", "--model", "fast", "--by", "ann", "--wait")

    assert ended.returncode == 0, ended.stderr
    assert "W18: 30 USD are paid back" in ended.stdout
    assert f"is forked from {run} at step 2" in ended.stderr


def test_what_cannot_be_forked_is_told_in_one_line(shell: Shell):
    run = ran(shell, "look")

    step = shell.run("fork", run, "--from-step", "7")
    arguments = shell.run("fork", run, "--from-step", "2", "--arguments", "[1]")
    no_json = shell.run("fork", run, "--from-step", "2", "--arguments", "{")

    assert (step.returncode, arguments.returncode, no_json.returncode) == (2, 2, 2)
    assert step.stderr.startswith(f"holdfast: Run {run} cannot be forked at step 7. Its steps are: 1 model ")
    assert "2 tool find_order" in step.stderr
    assert "--arguments must be one JSON object" in arguments.stderr
    assert "--arguments is no JSON" in no_json.stderr


def test_two_runs_are_compared_for_people_and_for_programs(shell: Shell):
    run = ran(shell, "look")
    new = shell.json("fork", run, "--from-step", "1", "--input", "hello")["run_id"]
    shell.run("result", new)

    told = shell.run("compare", run, new).stdout
    data = shell.json("compare", run, new)

    assert told.startswith(f"a: run {run}: desk")
    assert "They part at step 0." in told
    assert "answer of b: You said 'hello'." in told
    assert [step["likeness"] for step in data["steps"]] == ["changed", "changed", "only_a", "only_a"]
    assert (data["parted_at"], data["b"]["origin"]) == (0, f"forked from {run} at step 1")
    assert "The same in every step." in shell.run("compare", run, run).stdout


def test_a_failed_run_is_reborn_once_and_a_living_one_is_not(shell: Shell):
    dead = shell.run("run", "desk", "mumble").stderr.split()[1]
    living = shell.run("rebirth", dead)
    shell.run("redrive", dead, "--action", "abort")

    first, again = shell.run("rebirth", dead), shell.json("rebirth", dead)

    assert living.returncode == 2
    assert "goes on" in living.stderr
    assert first.stdout == f"Run {dead}-r1 goes on where {dead} died. Follow it: holdfast events {dead}-r1\n"
    assert again == {"run_id": f"{dead}-r1", "reborn_from": dead}
