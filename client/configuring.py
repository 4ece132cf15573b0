"""The configuration that all workers share: look at it, change it, take a change back; `Orchestrator.config` is one of these."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import asyncpg
import structlog
from pydantic import BaseModel
from temporalio.service import RPCError

from client.backend import Backend
from state import configuration
from state.configuration import Change, Version, WorkerRow
from workflows.contracts import names
from workflows.contracts.configuration import BUILT_IN, long_forms, overlaid, refuse_unfit
from workflows.contracts.documents import Document, differences, parse_path, path_text, value_at, with_value, without_value
from workflows.contracts.errors import ConfigurationError
from workflows.contracts.inference import InferenceSettings

log = structlog.get_logger("holdfast.client")

DEFAULT_BY: Final = "python client"
WAKE_AT_ONCE: Final = 20
TAKE_OVER_S: Final = 4.0
"""Twice the time in which a change reaches a worker."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that was made."""

    version: int
    woken: int
    """So many runs that waited for a budget were told to look again."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Which version a worker works with."""

    worker: str
    live: bool
    version: int
    newest: int
    problem: str | None
    """Why it does not use version `refused`."""
    refused: int | None
    applied_at: datetime
    seen_at: datetime


class Configuration:
    """Reads and changes the configuration in the database; a change reaches every worker within two seconds, without a restart.

    A change is checked before it is written, over what each live worker's files say: one that a worker could not use is refused.
    While no worker is live it is checked over the files of the worker that was seen last, or over the built-in settings.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._database = backend.database

    async def show(self) -> Version:
        """The newest version, with its document: only what is set."""
        return await configuration.current(self._database)

    async def effective(self) -> InferenceSettings:
        """What the worker that was seen last works with: its files, with the newest version over them."""
        bases = await self._bases()
        return overlaid(bases[0][1], (await self.show()).document)

    async def get(self, path: str) -> Any:
        """What counts at a path such as `tiers.smart`, in JSON's types.

        Raises:
            ConfigurationError: there is nothing at this path.
        """
        whole = (await self.effective()).model_dump(mode="json")
        try:
            return value_at(whole, parse_path(path))
        except KeyError as error:
            raise ConfigurationError(f"{path}: there is no {error.args[0]!r}.", field=path) from None

    async def set(self, path: str, value: Any, *, reason: str = "", author: str = DEFAULT_BY) -> Changed:
        """Set one value; None takes away what the files say there.

        Raises:
            ConfigurationError: it cannot be used; names the field and the remedy. Nothing was changed.
            ConfigurationConflictError: somebody else changed the configuration at the same moment.
        """
        old = await self.show()
        return await self._change(old, with_value(long_forms(old.document), parse_path(path), _plain(value)), author, reason)

    async def unset(self, path: str, *, reason: str = "", author: str = DEFAULT_BY) -> Changed:
        """Set a value no longer: what the workers' files say counts again.

        Raises:
            ConfigurationError: nothing is set there.
        """
        old = await self.show()
        try:
            document = without_value(old.document, parse_path(path))
        except KeyError:
            raise ConfigurationError(f"{path}: nothing is set there: `holdfast config show` tells what is.", field=path) from None
        return await self._change(old, document, author, reason)

    async def apply(
        self, document: Mapping[str, Any], *, reason: str = "", author: str = DEFAULT_BY, expected_version: int | None = None
    ) -> Changed:
        """Set a whole document in place of the one before.

        Args:
            document: part of what models.yaml can say.
            reason: why, for the history.
            author: who changes it.
            expected_version: the version that the author has looked at; a later one refuses the change.
        """
        old = await self.show() if expected_version is None else await configuration.get(self._database, expected_version)
        return await self._change(old, _plain(document), author, reason)

    async def history(self, limit: int = 50) -> tuple[Version, ...]:
        """The newest versions, newest first."""
        return tuple(await configuration.history(self._database, limit))

    async def diff(self, old: int, new: int) -> tuple[tuple[str, Any, Any], ...]:
        """(path, value before, value after) of all that two versions do not share.

        Raises:
            ConfigurationError: there is no such version.
        """
        before, after = await configuration.get(self._database, old), await configuration.get(self._database, new)
        return tuple(differences(before.document, after.document))

    async def rollback(self, version: int, *, reason: str = "", author: str = DEFAULT_BY) -> Changed:
        """Make an older version's document the newest; 0 sets nothing any more.

        Raises:
            ConfigurationError: there is no such version, or it cannot be used any more.
        """
        old, wanted = await self.show(), await configuration.get(self._database, version)
        return await self._change(old, wanted.document, author, reason, rolled_back_to=version or None)

    async def status(self) -> tuple[WorkerStatus, ...]:
        """Every worker that was seen within a day, and which version it has."""
        newest = await configuration.newest(self._database)
        return tuple(_status(row, newest) for row in await configuration.workers(self._database))

    async def _change(self, old: Version, document: Document, author: str, reason: str, *, rolled_back_to: int | None = None) -> Changed:
        document = long_forms(document)
        refuse_unfit(document)
        for worker, base in await self._bases():
            await asyncio.to_thread(_check, worker, base, document)
        version = await configuration.change(
            self._database,
            Change(document=document, author=author, reason=reason, expected_version=old.version, rolled_back_to=rolled_back_to),
        )
        return Changed(version, await self._wake(version) if old.document.get("budgets") != document.get("budgets") else 0)

    async def _bases(self) -> list[tuple[str | None, InferenceSettings]]:
        """What changes are laid over, each once: what live workers' files say, the one that was seen last first."""
        rows = sorted(await configuration.workers(self._database), key=lambda row: row.seen_at, reverse=True)
        chosen = [row for row in rows if row.live] or rows[:1]
        distinct = {json.dumps(row.file_settings, sort_keys=True): row for row in reversed(chosen)}
        found = [(row.worker, InferenceSettings.model_validate(row.file_settings)) for row in reversed(distinct.values())]
        return [*found] if found else [(None, BUILT_IN)]

    async def _wake(self, version: int) -> int:
        """Tell every run that waits for a budget to look again; one that misses it goes on when the period turns."""
        try:
            rows = await self._database.fetch("select distinct run_id from budget_waits")
        except asyncpg.UndefinedTableError:
            return 0
        if rows:
            await self._taken_over(version)
        gate = asyncio.Semaphore(WAKE_AT_ONCE)

        async def wake(run_id: str) -> bool:
            try:
                async with gate:
                    await self._backend.temporal.get_workflow_handle(run_id).signal(names.WAKE)
            except RPCError as error:  # it has ended, or Temporal is away; the change stands in any case
                log.info("configuration.not_woken", run=run_id, status=error.status.name)
                return False
            return True

        return sum(await asyncio.gather(*(wake(row["run_id"]) for row in rows)))

    async def _taken_over(self, version: int) -> None:
        """Wait a moment until live workers have the version: a run that looks again under the old one would wait until the period turns."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKE_OVER_S):
                while any(row.live and row.version < version for row in await configuration.workers(self._database)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)


def _status(row: WorkerRow, newest: int) -> WorkerStatus:
    return WorkerStatus(row.worker, row.live, row.version, newest, row.problem, row.refused, row.applied_at, row.seen_at)


def _plain(value: Any) -> Any:
    """The value in JSON's types."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    try:
        return json.loads(json.dumps(value, default=_other))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"The value is not JSON ({error}): use texts, numbers, lists and mappings.") from None


def _other(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    raise TypeError(f"{type(value).__name__} cannot be stored")


def _check(worker: str | None, base: InferenceSettings, document: Document) -> None:
    try:
        _refuse_unpriced(overlaid(base, document), base)
    except ConfigurationError as error:
        where = f" (with the files of worker {worker})" if worker else ""
        raise ConfigurationError(f"{error}{where}", field=error.field) from None


def _refuse_unpriced(settings: InferenceSettings, base: InferenceSettings) -> None:
    """A model that a change brings in must have a price; what the files name alone is theirs to answer for."""
    if settings.unknown_price is not None:
        return
    import genai_prices  # slow to import, and only changes need it

    before = {model for tier in base.tiers.values() for model in tier.models} if settings.models == base.models else set()
    for name, tier in settings.tiers.items():
        for model in tier.models:
            provider, _, alone = model.partition(":")
            own = settings.models.get(model)
            if model in before or (own is not None and own.priced):
                continue
            try:
                genai_prices.calc_price(
                    genai_prices.Usage(input_tokens=1), model_ref=alone, provider_id=settings.providers[provider].price_provider
                )
            except LookupError:
                prices = path_text(("models", model))
                raise ConfigurationError(
                    f"tiers.{name}: no price is known for {model!r}: correct the name, set {prices}.input_usd_per_million and "
                    "output_usd_per_million first, or declare unknown_price.",
                    field=f"tiers.{name}",
                ) from None
