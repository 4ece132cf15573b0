"""Waiting for people on real servers: reminders, escalation, who is told, what is left behind when a run ends."""

from __future__ import annotations

import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities.inference.alerts import Alerts
from activities.inference.providers.scripted import tool_call
from activities.people import records
from activities.people.records import RecordActivities
from state import dead_letter_lists, people, transcripts
from state.dead_letter_lists import LetterFilter
from state.pool import Database
from tests.integration.people.conftest import AGENTS, WITHIN_S, Open, record, until, waiting
from tests.integration.people.test_outbox import hook
from tests.integration.people.test_questions_kept import AGENT, asks, new_run
from workflows.contracts.errors import RunStateError, StepError
from workflows.contracts.inference import AlertSettings
from workflows.contracts.messages import Role
from workflows.contracts.people import CloseRequest, Note, RecordRequest
from workflows.contracts.people_settings import PeopleSettings
from workflows.contracts.runs import RunStatus


def told_by(folder: Path, url: str) -> Path:
    """The agents of these tests, with a webhook that is told."""
    shutil.copytree(AGENTS, folder)
    with (folder / "people.yaml").open("a", encoding="utf-8") as file:
        file.write(f"notify: {{webhook: '{url}'}}\n")
    return folder


async def test_people_are_reminded_then_others_are_asked_and_all_are_told(opened: Open, tmp_path: Path) -> None:
    async with hook() as (url, posted):
        env = await opened(tool_call("close_shop", days=3), "Closed.", agents=told_by(tmp_path / "agents", url))
        run = await env.start("desk", "x")
        (asked,) = await waiting(env, run)
        assert asked.allowed == ["lea"]

        (escalated,) = await until(lambda: waiting(env, run), lambda found: found[0].escalated)
        with pytest.raises(RunStateError, match="lea may not decide on this; hanna may"):
            await run.approve(by="lea")
        await run.approve(by="hanna")
        assert await run.result(timeout_s=WITHIN_S) == "Closed."

        def kinds() -> list[str]:
            return [body["kind"] for _, body in posted if body["run_id"] == run.id]

        async def of_run() -> list[str]:
            return kinds()

        await until(of_run, lambda found: {"question", "reminder", "escalation"} <= set(found))
    assert (escalated.named, escalated.allowed) == (["@heads"], ["hanna"])
    assert escalated.reminders >= 1
    assert kinds()[0] == "question"
    assert len({key for key, _ in posted}) == len(posted)
    noted = await record(env, run, 3)
    assert [(each.order, each.by, each.outcome) for each in noted] == [
        ("timeout", "timer", "accepted"),
        ("approve", "lea", "refused"),
        ("approve", "hanna", "accepted"),
    ]


async def test_people_are_told_of_a_step_that_cannot_go_on(opened: Open, tmp_path: Path) -> None:
    async with hook() as (url, posted):
        env = await opened(agents=told_by(tmp_path / "agents", url))  # the script has no answer
        run = await env.start("desk", "x")
        await until(run.status, lambda status: status is RunStatus.PARKED)

        async def of_run() -> list[dict[str, Any]]:
            return [body for _, body in posted if body["run_id"] == run.id]

        (told,) = await until(of_run, lambda found: len(found) == 1)
        await run.stop()
    assert (told["kind"], told["failure_class"], told["letter"]) == ("dead_letter", "caller", 1)
    assert "script_used_up" not in told["text"]


async def test_a_changed_people_file_counts_without_a_restart(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "agents"
    shutil.copytree(AGENTS, folder)
    env = await opened(*[tool_call("dismiss", name="Max")] * 200, agents=folder)

    async def asked() -> list[str]:
        run = await env.start("desk", "x")
        (one,) = await waiting(env, run)
        await run.stop()
        return one.allowed

    assert await asked() == ["lea", "bob"]
    people_file = folder / "people.yaml"
    people_file.write_text(people_file.read_text(encoding="utf-8").replace("[lea, bob]", "[lea, bob, nora]"), encoding="utf-8")

    assert await until(asked, lambda found: "nora" in found) == ["lea", "bob", "nora"]


def activities(database: Database) -> RecordActivities:
    return RecordActivities(database, PeopleSettings, Alerts(database, AlertSettings))


async def started_effect(database: Database, run_id: str, lease_s: float, state: str = "started") -> None:
    await database.execute(
        "insert into effects (tenant, tool, key, effect, state, run_id, step, token, worker, lease_until) "
        "values ('default', 'pay', $1 || ':2', 'once', $3, $1, 2, 't', 'w', clock_timestamp() + make_interval(secs => $2))",
        run_id,
        lease_s,
        state,
    )


async def close(database: Database, run_id: str, **fields: Any) -> None:
    request = CloseRequest(run_id=run_id, tenant="default", agent=AGENT, status="cancelled", by="ann", **fields)
    await ActivityEnvironment().run(activities(database).close_run, request)


async def test_the_end_of_a_run_withdraws_what_it_asked_and_writes_a_persons_answer_once(database: Database) -> None:
    run_id = await new_run(database)
    async with database.transaction() as connection:
        await people.put(connection, asks(run_id), ())
    for _ in range(2):
        await close(database, run_id, answer="It is settled.", step=3)
    message = await transcripts.message_at(database, run_id, 3)
    assert message is not None
    assert (message.role, message.text) == (Role.ASSISTANT, "It is settled.")
    assert await database.fetchval("select state from questions where run_id = $1", run_id) == "withdrawn"


@pytest.mark.parametrize(("state", "lease_s"), [("unknown", -1.0), ("started", -1.0)])
async def test_an_effect_that_nobody_knows_the_outcome_of_is_left_as_a_dead_letter(database: Database, state: str, lease_s: float) -> None:
    run_id = await new_run(database)
    await started_effect(database, run_id, lease_s, state)
    for _ in range(2):
        await close(database, run_id)
    (letter,) = await dead_letter_lists.find(database, LetterFilter(run_id=run_id), limit=9)
    assert (letter.letter, letter.failure_class, letter.tool, letter.state) == (-2, "unknown_outcome", "pay", "open")
    assert await database.fetchval("select state from effects where run_id = $1", run_id) == "unknown"


async def test_the_end_waits_for_a_tool_that_may_still_be_at_work_but_not_for_ever(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await new_run(database)
    await started_effect(database, run_id, 600.0)
    with pytest.raises(StepError, match="may still be at work"):
        await close(database, run_id)
    monkeypatch.setattr(records, "LOOKS", 1)
    await close(database, run_id)
    (letter,) = await dead_letter_lists.find(database, LetterFilter(run_id=run_id), limit=9)
    assert letter.failure_class == "unknown_outcome"


async def test_a_record_that_is_handed_in_twice_is_written_once(database: Database) -> None:
    run_id = f"people-{uuid.uuid4().hex[:12]}"
    notes = tuple(Note(number=number, at=datetime.now(UTC), order="pause", outcome="accepted") for number in (1, 2))
    request = RecordRequest(run_id=run_id, tenant="default", agent=AGENT, notes=notes)
    for _ in range(2):
        await ActivityEnvironment().run(activities(database).keep_record, request)
    assert await database.fetchval("select count(*) from decisions where run_id = $1", run_id) == 2
