"""Tells people of passed budget lines, opened breakers and refused keys: once over all workers, and never in a call's way."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import httpx2
import structlog

from activities.delivery import DELIVERY_S, post, run_program
from activities.identity import WORKER
from state.background import end
from state.pool import Database
from telemetry.inference import record_alert
from workflows.contracts.errors import UnavailableError
from workflows.contracts.inference import AlertSettings
from workflows.contracts.redaction import redact_value

log = structlog.get_logger("holdfast.alerts")

WAITING_AT_MOST: Final = 1_000

_CLAIM: Final = """insert into alerts (kind, subject, period, raised_by)
values ($1, $2, coalesce(nullif($3, ''), to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD"T"HH24')), $4)
on conflict do nothing returning period"""
"""Whoever inserts the row gives the alert; the hour is the database's, so that a worker whose clock is off gives none twice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """What happened. The same kind, subject and period is told once, whichever worker sees it first."""

    kind: str
    """`budget_soft`, `breaker_opened`, `key_refused`, …"""
    subject: str
    """Which budget, breaker or key."""
    period: str = ""
    """The time within which it is told once, as in the start of a budget's day; empty: this hour."""
    fields: Mapping[str, Any] = field(default_factory=dict)


class Alerts:
    """Takes alerts without waiting and gives them behind the caller's back: as a log event, a metric, to a program, to a webhook."""

    def __init__(self, database: Database, settings: Callable[[], AlertSettings]) -> None:
        self._database = database
        self._settings = settings
        self._waiting: asyncio.Queue[Alert] = asyncio.Queue(WAITING_AT_MOST)

    def raise_(self, kind: str, subject: str, period: str = "", **fields: Any) -> None:
        """Tell people, soon, and once an hour where no period is named; returns at once. With too many waiting it is logged and dropped."""
        try:
            self._waiting.put_nowait(Alert(kind=kind, subject=subject, period=period, fields=fields))
        except asyncio.QueueFull:
            log.error("alerts.dropped", kind=kind, subject=subject, period=period)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Alerts]:
        """Give alerts for the length of the block."""
        async with httpx2.AsyncClient(timeout=DELIVERY_S, follow_redirects=False) as http:
            giving = asyncio.create_task(self._give_always(http))
            try:
                yield self
            finally:
                await end(giving)

    async def _give_always(self, http: httpx2.AsyncClient) -> None:
        while True:
            alert = await self._waiting.get()
            try:
                period = await self._claimed(alert)
                if period is not None:
                    await self._give(replace(alert, period=period), http)
            except Exception as error:  # whatever it was, the next alert must be given
                log.error("alerts.failed", kind=alert.kind, subject=alert.subject, error_type=type(error).__name__, exc_info=error)

    async def _claimed(self, alert: Alert) -> str | None:
        """Its period, where nobody else gives it. With the database away every worker gives its own: twice is better than never."""
        try:
            period: str | None = await self._database.fetchval(_CLAIM, alert.kind, alert.subject, alert.period, WORKER)
        except UnavailableError:
            return alert.period or datetime.now(UTC).strftime("%Y-%m-%dT%H")
        return period

    async def _give(self, alert: Alert, http: httpx2.AsyncClient) -> None:
        told = redact_value({"kind": alert.kind, "subject": alert.subject, "period": alert.period, **alert.fields})
        log.warning(f"alert.{alert.kind}", **{name: value for name, value in told.items() if name != "kind"})
        record_alert(alert.kind)
        settings, text = self._settings(), json.dumps(told, default=str)
        if settings.command is not None and (problem := await run_program(settings.command, text)):
            log.error("alerts.command_failed", kind=alert.kind, problem=problem)
        if settings.webhook is not None and (problem := await post(http, settings.webhook, text)):
            log.error("alerts.webhook_failed", kind=alert.kind, problem=problem)
