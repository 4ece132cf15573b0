"""`holdfast dead-letters` as people type it: list, show, one, many, and what is refused before anything is ordered."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator

import asyncpg
import pytest

from client.dead_letters import CONFIRM_ABOVE
from tests.integration.client.shell import Dev, Shell, running_dev, until

FAKE = """
insert into dead_letters (run_id, letter, step, tenant, agent, agent_version, definition_hash, model, limits, failure_class, cause, what,
                          parked_at)
select $1, n, n, $2, 'desk', '1', 'hash', 'smart', '{}', 'quota', 'nothing left', 'call_model smart', now() from generate_series(1, $3) n"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    with running_dev(tmp_path_factory.mktemp("letters") / "data") as running:
        yield running


@pytest.fixture
def shell(dev: Dev) -> Shell:
    return dev.shell


def stuck(shell: Shell, tenant: str) -> str:
    """A run that is parked and filed: its model gives answers that are none."""
    run_id = shell.run("run", "desk", "mumble", "--tenant", tenant, "--no-wait").stdout.strip()
    until(lambda: len(shell.json("dead-letters", "list", "--run", run_id)) == 1)
    return run_id


def test_one_is_listed_shown_and_goes_on_with_another_input(shell: Shell) -> None:
    tenant = uuid.uuid4().hex
    run_id = stuck(shell, tenant)

    listed = shell.run("dead-letters", "list", "--tenant", tenant).stdout.splitlines()
    shown = shell.run("dead-letters", "show", run_id).stdout
    told = shell.json("dead-letters", "show", f"{run_id}:1")

    assert listed[0].split() == ["ID", "AGENT", "CLASS", "STEP", "TENANT", "USER", "SINCE", "WHAT"]
    assert listed[1].startswith(f"{run_id}:1  desk   model_behaviour")
    assert f"holdfast dead-letters redrive {run_id}:1" in shown
    assert "step 0 user: mumble" in shown
    assert (told["failure_class"], told["state"], told["tenant"]) == ("model_behaviour", "open", tenant)

    ordered = shell.json("dead-letters", "redrive", f"{run_id}:1", "--input", "hello", "--by", "ann", "--reason", "a slip")

    assert (ordered["outcome"], ordered["ordered"]) == ("accepted", "retry")
    assert shell.run("result", run_id).stdout == "You said 'hello'.\n"
    assert "redriven by ann at" in shell.run("dead-letters", "show", f"{run_id}:1").stdout
    late = shell.run("dead-letters", "abort", f"{run_id}:1")
    assert (late.returncode, late.stdout) == (2, "")
    assert "has ended" in late.stderr


def test_many_are_tried_dry_and_ordered_by_a_filter(shell: Shell) -> None:
    tenant = uuid.uuid4().hex
    runs = {stuck(shell, tenant) for _ in range(3)}
    chosen = ("--tenant", tenant, "--class", "model_behaviour", "--younger-than", "1h", "--agent", "desk")

    dry = shell.run("dead-letters", "redrive", *chosen, "--dry-run")
    assert (dry.returncode, dry.stderr.strip().splitlines()[-1]) == (0, "3 would be ordered to retry; nothing was ordered.")
    assert {line.split(":")[0] for line in dry.stdout.splitlines()[1:]} == runs
    report = shell.json("dead-letters", "redrive", *chosen, "--input", "hello", "--rate", "50")

    assert (report["matched"], report["ordered"], report["failed"], report["refused"]) == (3, 3, 0, 0)
    assert {shell.run("result", run_id).stdout for run_id in runs} == {"You said 'hello'.\n"}
    until(lambda: shell.json("dead-letters", "list", "--tenant", tenant) == [])
    assert len(shell.json("dead-letters", "list", "--tenant", tenant, "--state", "redriven")) == 3


def test_an_order_that_runs_refuse_ends_with_one_and_their_reason(shell: Shell) -> None:
    tenant = uuid.uuid4().hex
    run_id = stuck(shell, tenant)

    ended = shell.run("dead-letters", "skip", "--tenant", tenant, "--result", "x")

    assert ended.returncode == 1
    assert "1 refused" in ended.stderr
    assert f"{run_id}:1: skip: only a tool call can be passed over" in ended.stderr
    assert shell.run("dead-letters", "abort", run_id).returncode == 0
    assert shell.run("result", run_id).returncode == 1


def test_a_filter_that_fits_nothing_says_so(shell: Shell) -> None:
    ended = shell.run("dead-letters", "redrive", "--class", "quota", "--tenant", "nobody")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "No dead letter fits: failure_class quota, tenant nobody; classes are throttled, " in ended.stderr
    assert shell.json("dead-letters", "redrive", "--tenant", "nobody")["matched"] == 0


def test_far_too_many_want_to_be_confirmed(dev: Dev) -> None:
    tenant, shell = uuid.uuid4().hex, dev.shell
    run_id = shell.run("run", "desk", "hello", "--no-wait").stdout.strip()

    async def fake() -> None:
        endpoints = json.loads((shell.data / "endpoints.json").read_text())
        connection = await asyncpg.connect(endpoints["database_url"])
        await connection.execute(FAKE, run_id, tenant, CONFIRM_ABOVE + 1)
        await connection.close()

    asyncio.run(fake())

    ended = shell.run("dead-letters", "redrive", "--tenant", tenant)

    assert ended.returncode == 2
    assert f"{CONFIRM_ABOVE + 1} dead letters fit, more than {CONFIRM_ABOVE}: narrow the filter, or confirm it (--yes" in ended.stderr
    assert len(shell.json("dead-letters", "list", "--tenant", tenant, "--limit", "99")) == CONFIRM_ABOVE + 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("abort", "--all", "--rate", "0"), "rate_per_s must be above 0"),
        (("list", "--class", "quotas"), "There is no failure class 'quotas'; there are throttled, "),
        (("show", "r:one"), "'r:one' names no dead letter: write RUN or RUN:LETTER"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(shell: Shell, arguments: tuple[str, ...], problem: str) -> None:
    ended = shell.run("dead-letters", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert problem in ended.stderr
