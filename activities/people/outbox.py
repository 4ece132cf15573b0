"""Delivers what people are to be told: any worker may, each once at a time, with pauses that grow, and nothing ever waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Final

import httpx2
import structlog

from activities.delivery import DELIVERY_S, post, run_program
from activities.inference.alerts import Alerts
from state import notifications
from state.background import end
from state.notifications import Notification
from state.pool import Database
from workflows.contracts.errors import UnavailableError
from workflows.contracts.people_settings import NotifySettings

log = structlog.get_logger("holdfast.people")

LOOK_EVERY_S: Final = 1.0
AT_ONCE: Final = 20
FORGET_EVERY_S: Final = 3_600.0


class Outbox:
    """The deliveries of one worker. A worker without `notify` delivers nothing; one with it delivers also what others have written."""

    def __init__(self, database: Database, settings: Callable[[], NotifySettings | None], alerts: Alerts) -> None:
        self._database = database
        self._settings = settings
        self._alerts = alerts

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Outbox]:
        """Deliver for the length of the block."""
        async with httpx2.AsyncClient(timeout=DELIVERY_S, follow_redirects=False) as http:
            delivering = asyncio.create_task(self._deliver_always(http))
            try:
                yield self
            finally:
                await end(delivering)

    async def deliver(self, http: httpx2.AsyncClient) -> int:
        """Deliver what is due now; how many that were.

        Raises:
            UnavailableError: the database does not answer.
        """
        settings = self._settings()
        if settings is None:
            return 0
        due = await notifications.claim(self._database, AT_ONCE)
        await asyncio.gather(*(self._tell(each, settings, http) for each in due))
        return len(due)

    async def _deliver_always(self, http: httpx2.AsyncClient) -> None:
        loop = asyncio.get_running_loop()
        forget_at = loop.time()
        while True:
            told = 0
            try:
                told = await self.deliver(http)
                if loop.time() >= forget_at:
                    await notifications.forget(self._database)
                    forget_at = loop.time() + FORGET_EVERY_S
            except UnavailableError:
                log.warning("people.outbox_waits_for_database")
            except Exception as error:  # whatever it was, the next must be told
                log.error("people.outbox_failed", error_type=type(error).__name__, exc_info=error)
            if told < AT_ONCE:
                await asyncio.sleep(LOOK_EVERY_S)

    async def _tell(self, told: Notification, settings: NotifySettings, http: httpx2.AsyncClient) -> None:
        text = json.dumps({"key": told.key, **told.body}, ensure_ascii=False)
        problems = []
        if settings.webhook is not None:
            headers = {"idempotency-key": told.key}
            problems.append(("webhook", await post(http, settings.webhook, text, headers)))
        if settings.command is not None:
            problems.append(("command", await run_program(settings.command, text)))
        problem = "; ".join(f"{way} {said}" for way, said in problems if said)
        if not problem:
            await notifications.delivered(self._database, told)
            return
        give_up = told.attempts >= settings.attempts
        await notifications.failed(self._database, told, problem, give_up=give_up)
        log.warning("people.not_told", kind=told.kind, run_id=told.run_id, attempts=told.attempts, given_up=give_up, problem=problem)
        if give_up:
            self._alerts.raise_("notification_given_up", told.key, told.key, run_id=told.run_id, problem=problem, attempts=told.attempts)
