"""The semantic cache: the answer to a question that means the same, where all around it is the very same. Off unless it is set.

Why it is as it is: docs/adr/0016-semantic-cache.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Protocol

import structlog

from activities.inference.admission import Admission
from activities.inference.cache import Lead
from activities.inference.question_embedding import Question, QuestionEmbedding
from activities.inference.routing import Router
from state import meanings
from state.background import end
from state.meanings import Nearest
from state.pool import Database
from state.response_cache import CacheKey, Hit
from workflows.contracts.errors import SettingsError, StepError, UnavailableError, UnknownModelError
from workflows.contracts.inference import CacheSettings, SemanticSettings
from workflows.contracts.steps import ModelCallRequest

log = structlog.get_logger("holdfast.cache")

LOOK_EVERY_S: Final = 30.0
"""How often a database that lacked pgvector is asked again, and unneeded embeddings are forgotten."""
OFF: Final = "semantic_cache_off"
"""The alert's kind."""


class Alert(Protocol):
    """Tells people, once an hour over all workers."""

    def raise_(self, kind: str, subject: str, **fields: Any) -> None:
        """Tell people, soon; returns at once."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What looking by meaning came to, and what the embedding of the question was charged at this step."""

    hit: Hit | None = None
    cost_usd: Decimal = Decimal(0)


class SemanticCache:
    """Finds answers by meaning. Whatever goes wrong here, the call goes on as if it were off.

    Args:
        settings: gives the cache's settings as they stand now.
        alerts: told when the database cannot compare meanings.
    """

    def __init__(self, database: Database, settings: Callable[[], CacheSettings], alerts: Alert | None = None) -> None:
        self._database = database
        self._settings = settings
        self._alerts = alerts
        self._prepared = False
        self._problem: str | None = None
        self._stir = asyncio.Event()
        self._turn = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[SemanticCache]:
        """Prepare the database now if the cache is on, and when it is switched on, for the length of the block."""
        await self.refresh()
        tending = asyncio.create_task(self._tend_always())
        try:
            yield self
        finally:
            await end(tending)

    def configured(self) -> None:
        """Look at the settings again: they have changed."""
        self._stir.set()

    @property
    def problem(self) -> str | None:
        """Why it is off although it is set; None when it works, or is not set."""
        return self._problem

    async def refresh(self) -> None:
        """Prepare what is switched on and was not prepared yet; forget what nobody needs."""
        if self._settings().semantic is None:
            self._problem = None
            return
        try:
            if not self._prepared:
                await meanings.prepare(self._database)
                self._prepared, self._problem = True, None
                log.info("cache.semantic_on")
            await meanings.sweep(self._database)
        except UnavailableError:
            log.warning("cache.semantic_waits_for_database")
        except SettingsError as error:
            if self._problem != str(error):
                log.error("cache.semantic_off", problem=str(error))
                self._tell(str(error))
            self._problem = str(error)
        except Exception as error:  # whatever it was, it must be looked at again
            log.error("cache.semantic_failed", error_type=type(error).__name__, exc_info=error)

    async def find(self, lead: Lead, step: ModelCallRequest, router: Router, admission: Admission) -> Found:
        """The answer to a question that means the same as the leader's, filed under its key too: then its flight is over."""
        settings, key = self._settings().semantic, lead.flight.key
        if settings is None or key.frame is None or not key.text.strip() or not await self._ready():
            return Found()
        try:
            nearest = await meanings.find(self._database, lead.flight, _space(settings), settings.min_similarity)
            if not nearest.known:
                nearest = await self._asked(lead, Question(step, key.text), QuestionEmbedding(self._database, router, admission, settings))
            spent_usd = await meanings.cost_of(self._database, step.run_id, step.step)
        except (UnavailableError, SettingsError, UnknownModelError) as error:
            log.warning("cache.semantic_skipped", agent=key.agent, problem=str(error))
            return Found()
        log.debug("cache.semantic_looked", agent=key.agent, similarity=nearest.similarity, hit=nearest.hit is not None)
        return Found(nearest.hit, spent_usd)

    async def _ready(self) -> bool:
        """Whether meanings can be compared; the first call after it was switched on waits until that is known."""
        if not self._prepared and self._problem is None:
            async with self._turn:
                if not self._prepared and self._problem is None:
                    await self.refresh()
        return self._prepared

    async def _asked(self, lead: Lead, question: Question, embedding: QuestionEmbedding) -> Nearest:
        """Have the question embedded, and look again."""
        key, settings = lead.flight.key, embedding.settings
        try:
            vector = await embedding.vector(question)
        except StepError as error:
            log.warning("cache.semantic_skipped", agent=key.agent, failure_class=error.failure_class.value, problem=str(error))
            return Nearest(known=False)
        if vector is None or not self._fits(vector, settings, key):
            return Nearest(known=False)
        await meanings.learn(self._database, key, _space(settings), vector)
        return await meanings.find(self._database, lead.flight, _space(settings), settings.min_similarity)

    def _fits(self, vector: Sequence[float], settings: SemanticSettings, key: CacheKey) -> bool:
        if settings.dimensions in (None, len(vector)):
            return True
        problem = (
            f"{settings.model} gives vectors of {len(vector)} numbers, cache.semantic.dimensions says {settings.dimensions}: "
            "correct it, or leave it out"
        )
        log.error("cache.semantic_skipped", agent=key.agent, problem=problem)
        self._tell(problem)
        return False

    async def _tend_always(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY_S):
                    await self._stir.wait()
            self._stir.clear()
            await self.refresh()

    def _tell(self, problem: str) -> None:
        if self._alerts is not None:
            self._alerts.raise_(OFF, "cache.semantic", problem=problem)


def _space(settings: SemanticSettings) -> str:
    """Vectors of two models, or of two lengths, say nothing of each other."""
    return settings.model if settings.dimensions is None else f"{settings.model}/{settings.dimensions}"
