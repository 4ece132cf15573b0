"""Opens what a worker does for people: questions, records, and the outbox."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from activities.inference.alerts import Alerts
from activities.inference.answering import Definitions
from activities.people.outbox import Outbox
from activities.people.questions import QuestionActivities
from activities.people.records import RecordActivities
from state.pool import Database
from workflows.contracts.inference import AlertSettings
from workflows.contracts.people_settings import PeopleSettings


@dataclass(slots=True)
class OpenPeople:
    """The activities, and the settings that they go by: set anew when people.yaml changes."""

    settings: PeopleSettings
    activities: tuple[Callable[..., Any], ...] = ()


@contextlib.asynccontextmanager
async def open_people(
    database: Database, definitions: Definitions, settings: PeopleSettings, alerts: Callable[[], AlertSettings]
) -> AsyncIterator[OpenPeople]:
    """All of it for the length of the block."""
    opened = OpenPeople(settings)
    async with Alerts(database, alerts).open() as telling, Outbox(database, lambda: opened.settings.notify, telling).open():
        questions = QuestionActivities(database, definitions, lambda: opened.settings)
        records = RecordActivities(database, lambda: opened.settings, telling)
        opened.activities = (questions.ask_person, questions.check_edit, records.keep_record, records.close_run)
        yield opened
