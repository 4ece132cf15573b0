"""Opens what a worker does for people: questions, records, and the outbox."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from activities.inference.alerts import Alerts
from activities.inference.answering import Definitions
from activities.people.outbox import Outbox
from activities.people.questions import Misread, QuestionActivities
from activities.people.records import RecordActivities
from activities.tools.registry import Toolbox
from state.pool import Database
from workflows.contracts.errors import ArgumentsError, StepError
from workflows.contracts.inference import AlertSettings
from workflows.contracts.people_settings import PeopleSettings


@dataclass(slots=True)
class OpenPeople:
    """The activities, and the settings that they go by: set anew when people.yaml changes."""

    settings: PeopleSettings
    activities: tuple[Callable[..., Any], ...] = ()


@contextlib.asynccontextmanager
async def open_people(
    database: Database, definitions: Definitions, toolbox: Toolbox, settings: PeopleSettings, alerts: Callable[[], AlertSettings]
) -> AsyncIterator[OpenPeople]:
    """All of it for the length of the block."""
    opened = OpenPeople(settings)
    async with Alerts(database, alerts).open() as telling, Outbox(database, lambda: opened.settings.notify, telling).open():
        questions = QuestionActivities(database, definitions, lambda: opened.settings, _misread_by(toolbox))
        records = RecordActivities(database, lambda: opened.settings, telling)
        opened.activities = (questions.ask_person, questions.check_edit, records.keep_record, records.close_run)
        yield opened


def _misread_by(toolbox: Toolbox) -> Misread:
    """A function's types can say more than its schema: that a text is a number, that two fields belong together."""

    def misread(tool: str, raw: str) -> str:
        try:
            toolbox.function(tool).read(raw)
        except ArgumentsError as error:
            return str(error)
        except StepError:  # an HTTP tool, or one of another worker
            return ""
        return ""

    return misread
