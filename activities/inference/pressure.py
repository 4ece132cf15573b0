"""What makes a tier go down a step: a budget past its soft line, or a wait that is too long; with hysteresis against fluttering."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Final

import structlog

from activities.inference.alerts import Alerts
from activities.inference.planning import budget_lines
from activities.inference.routing import Candidate
from state import budgets
from state.background import end
from state.notices import Notices
from state.pool import Database
from workflows.contracts.errors import UnavailableError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.steps import ModelCallRequest

log = structlog.get_logger("holdfast.inference")

POLL_S: Final = 2.0


class Pressure:
    """A worker's view of the budgets that are past their soft line, and of the tiers that its calls went down from.

    The budgets' own hysteresis is in the database: a line is passed at `soft`, and left a tenth below.
    """

    def __init__(self, alerts: Alerts | None = None) -> None:
        self._alerts = alerts
        self._soft: frozenset[str] = frozenset()
        self._tempted: set[str] = set()

    @contextlib.asynccontextmanager
    async def watching(self, database: Database, notices: Notices) -> AsyncIterator[Pressure]:
        """Follow the budgets for the length of the block: by announcement, and by looking every two seconds."""
        stir = asyncio.Event()
        notices.on(budgets.CHANNEL, lambda payload: self._announced(payload, stir))
        task = asyncio.create_task(self._watch(database, stir))
        try:
            yield self
        finally:
            await end(task)

    async def refresh(self, database: Database) -> None:
        """Look now."""
        self._soft = frozenset(state.budget for state in await budgets.past_soft_line(database))

    def on(self, settings: InferenceSettings, step: ModelCallRequest) -> str:
        """Which soft line presses on a step, in words; empty when none does."""
        if not self._soft:
            return ""
        passed = next((line for line in budget_lines(settings, step) if line.id in self._soft), None)
        return f"budget {passed.id} is past {passed.soft:.0%}" if passed else ""

    @property
    def tempted(self) -> frozenset[str]:
        """The tiers whose last call was answered from below, because of the wait: they come back at half of it."""
        return frozenset(self._tempted)

    def chose(self, tier: str, candidate: Candidate) -> None:
        """Note from where a tier's call is answered."""
        if candidate.downgraded_from:
            self._tempted.add(tier)
        else:
            self._tempted.discard(tier)

    def _announced(self, payload: str, stir: asyncio.Event) -> None:
        stir.set()
        told = json.loads(payload) if payload else {}
        if self._alerts is not None and told.get("passed"):
            self._alerts.raise_("budget_soft", told["budget"], name=told["name"], share=told["share"])

    async def _watch(self, database: Database, stir: asyncio.Event) -> None:
        while True:
            try:
                await self.refresh(database)
            except UnavailableError:
                log.warning("pressure.waits_for_database")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await stir.wait()
            stir.clear()
