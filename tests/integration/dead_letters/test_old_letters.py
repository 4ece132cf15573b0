"""Dead letters that stay open are told of, once a day each, by one of the workers; a filed one is counted."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from activities.dead_letters.reporting import open_reporter
from state import dead_letters, runs
from state.pool import Database
from state.runs import NewRun
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.errors import FailureClass
from workflows.contracts.inference import AlertSettings
from workflows.contracts.messages import Message, Role
from workflows.contracts.people import Filed, RecordRequest
from workflows.contracts.runs import Parked

WRITE = "import sys, pathlib; pathlib.Path(sys.argv[1]).open('a').write(sys.stdin.read() + '\\n')"


async def test_an_old_letter_is_told_of_by_one_worker_and_a_young_one_by_none(database: Database, tmp_path: Path) -> None:
    run_id, file = f"old-{uuid.uuid4().hex[:12]}", tmp_path / "alerts.jsonl"
    await runs.create(database, NewRun(run_id, "t", "desk", "h", None, None, "b", Decimal(1)), Message(role=Role.USER, text="x"))
    request = RecordRequest(run_id=run_id, tenant="t", agent=AgentDefinition(name="desk", instructions="Help.").pin())
    parked = Parked(failure_class=FailureClass.QUOTA, cause="nothing left", step=1, what="call_model smart")
    async with database.transaction() as connection:
        for letter, at in ((1, datetime(2001, 1, 1, tzinfo=UTC)), (2, datetime.now(UTC))):
            await dead_letters.file(connection, request, Filed(at=at, parked=parked.model_copy(update={"letter": letter})))
    settings = AlertSettings(command=(sys.executable, "-c", WRITE, str(file)))

    async with open_reporter(database, lambda: settings, look_every_s=0.1), open_reporter(database, lambda: settings, look_every_s=0.1):
        async with asyncio.timeout(30):
            while not _told(file, run_id):  # noqa: ASYNC110 - a program of its own writes it
                await asyncio.sleep(0.05)
        for _ in range(5):  # further looks
            await database.fetchval("select pg_sleep(0.1)")

    told = _told(file, run_id)
    assert [(each["kind"], each["subject"], each["failure_class"]) for each in told] == [("dead_letter_old", f"{run_id}:1", "quota")]
    assert told[0]["since"].startswith("2001-01-01")


def _told(file: Path, run_id: str) -> list[dict[str, str]]:
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    return [each for line in lines if (each := json.loads(line)).get("run_id") == run_id]
