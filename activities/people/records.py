"""The activities that write down what people ordered and what cannot go on, and that close a run's questions at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from temporalio import activity

from activities.dead_letters.reporting import tell_filed
from activities.inference.alerts import Alerts
from activities.people import telling
from state import closing, dead_letters, people
from state.closing import UnknownEffect
from state.pool import Connection, Database
from workflows.contracts import names
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.people import CloseRequest, Filed, RecordRequest
from workflows.contracts.people_settings import PeopleSettings
from workflows.contracts.runs import Parked

LOOKS: Final = 10
"""How often the end of a run waits for the lease of an effect whose worker has died, before it takes the outcome as unknown."""
LOOK_AGAIN_S: Final = 2.0


class RecordActivities:
    """`keep_record` and `close_run`."""

    def __init__(self, database: Database, settings: Callable[[], PeopleSettings], alerts: Alerts) -> None:
        self._database = database
        self._settings = settings
        self._alerts = alerts

    @activity.defn(name=names.KEEP_RECORD)
    async def keep_record(self, request: RecordRequest) -> None:
        """Append what people ordered to the audit record, file dead letters, settle what is settled."""
        async with self._database.transaction() as connection:
            await people.lock(connection, request.run_id)
            # Letters first: an order comes after what it is about.
            filed = [letter for letter in request.filed if await self._file(connection, request, letter)]
            for note in request.notes:
                if await people.note(connection, request, note):
                    await dead_letters.settle(connection, request, note)
        for letter in filed:
            tell_filed(request, letter)

    @activity.defn(name=names.CLOSE_RUN)
    async def close_run(self, request: CloseRequest) -> None:
        """Withdraw what a run asked, write a person's answer, report effects of unknown outcome."""
        record = RecordRequest(run_id=request.run_id, tenant=request.tenant, agent=request.agent)
        async with self._database.transaction() as connection:
            await people.lock(connection, request.run_id)
            last_look = activity.info().attempt >= LOOKS
            if await closing.settle_dead_holders(connection, request.run_id, take_all=last_look) and not last_look:
                raise StepError(
                    "A tool of the run may still be at work.",
                    failure_class=FailureClass.TRANSIENT,
                    retry_after_s=LOOK_AGAIN_S,
                    exact=True,
                )
            await people.withdraw(connection, request.run_id, request.by, request.status)
            await dead_letters.withdraw(connection, request.run_id, request.by, request.reason)
            if request.answer is not None:
                await closing.write_answer(connection, request.run_id, request.step, request.agent.name, request.answer)
            left = [_letter(effect) for effect in await closing.unknown_effects(connection, request.run_id)]
            new = [letter for letter in left if await self._file(connection, record, letter)]
        for letter in new:
            tell_filed(record, letter)
            self._alert(record, letter)

    async def _file(self, connection: Connection, request: RecordRequest, letter: Filed) -> bool:
        new = await dead_letters.file(connection, request, letter)
        if new and self._settings().notify is not None:
            await telling.of_letter(connection, request, letter)
        return new

    def _alert(self, record: RecordRequest, letter: Filed) -> None:
        subject = f"{record.run_id}:{letter.parked.step}"
        self._alerts.raise_("effect_unknown", subject, subject, run_id=record.run_id, agent=record.agent.name, cause=letter.parked.cause)


def _letter(effect: UnknownEffect) -> Filed:
    """What is left for a person to find out when nobody will ask for it by redriving. Its number cannot be one of the run's own."""
    return Filed(
        at=effect.started_at,
        parked=Parked(
            failure_class=FailureClass.UNKNOWN_OUTCOME,
            cause=f"the run has ended, and nobody knows whether {effect.tool} did its work under the key {effect.key}",
            step=effect.step,
            what=f"run_tool {effect.tool}",
            letter=-effect.step,
        ),
    )
