"""Hands batches in, finds those again whose handing in was never confirmed, looks at them, and brings their answers home."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from activities.edge import until_available
from activities.identity import WORKER
from activities.inference.admission import Key
from activities.inference.batch_answers import BatchAnswers
from activities.inference.breaker_rules import key_refused
from activities.inference.payment import Means
from activities.inference.providers.batch_api import BatchApi, BatchItem, Submission, batch_api_of
from state import batches
from state.batches import Batch, Lease, Standing, Waiting
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import BatchSettings

log = structlog.get_logger("holdfast.inference")

MAX_TRIES: Final = 5
"""So many batches that the provider does not take in, and a request is made as an ordinary call."""
MAX_TROUBLES: Final = 3
"""So many looks in a row at which the provider does not know the batch, and it is given up."""
LOST_AFTER_S: Final = 26 * 3_600.0
"""Both providers end a batch within 24 hours; one that has not ended by then is given up."""
AT_ONCE_S: Final = 1.0
"""How old the last look must be for a run that was woken."""
_PASSES: Final = frozenset({FailureClass.THROTTLED, FailureClass.TRANSIENT})


@dataclass(frozen=True, slots=True)
class Door:
    """A provider's Batch API by one key."""

    key: Key
    api: BatchApi


@dataclass(frozen=True, slots=True)
class Errand:
    """A batch that is ours for the length of a lease."""

    batch: Batch
    lease: Lease
    door: Door
    deadline: float
    """By the event loop's clock: the provider is sent nothing after it, so that the lease outlives every sending."""


class Courier:
    """What one look at a batch does. Every step of it can be repeated by any worker; the lease only keeps them apart."""

    def __init__(self, means: Means, answers: BatchAnswers) -> None:
        self._means = means
        self._database = means.database
        self._settings: BatchSettings = means.router.settings.batch
        self._answers = answers

    async def attend(self, call_id: int, *, at_once: bool) -> None:
        """Do what is due for the batch of a request, unless somebody else does."""
        standing = await batches.standing(self._database, call_id)
        if standing is None or standing.call_state != "in_flight":
            return
        lease = Lease(f"{WORKER}/{uuid.uuid4().hex[:8]}", 2 * self._settings.submit_timeout_s)
        door = self._door(standing.provider, standing.key)
        if door is None:
            await self._without_door(call_id, standing, lease)
            return
        deadline = asyncio.get_running_loop().time() + self._settings.submit_timeout_s
        if standing.state == "gathered":
            batch = await batches.gather(self._database, call_id, lease, self._settings.max_requests)
            if batch is not None:
                await self._hand_in(Errand(batch, lease, door, deadline))
        elif standing.batch_id is not None:
            every_s = AT_ONCE_S if at_once else self._settings.first_look_s / 2
            batch = await batches.claim(self._database, standing.batch_id, lease, every_s=every_s)
            if batch is not None:
                errand = Errand(batch, lease, door, deadline)
                await (self._find(errand) if batch.state == "sending" else self._look(errand))

    async def cancel(self, left: batches.LeftBehind) -> None:
        """Have a batch ended that nobody waits for."""
        door = self._door(left.provider, left.key)
        if door is None:
            return
        try:
            with door.key.in_use():
                await door.api.cancel(left.provider_batch_id)
        except StepError as error:
            log.warning("batch.not_cancelled", provider=left.provider, problem=str(error))

    async def _without_door(self, call_id: int, standing: Standing, lease: Lease) -> None:
        """The key is not here, or its provider has no Batch API any more: what is not handed in yet is made as an ordinary call."""
        log.warning("batch.no_key", provider=standing.provider, key=standing.key)
        if self._means.admission.keys.expected(standing.provider):
            return
        if standing.state == "gathered":
            batch = await batches.gather(self._database, call_id, lease, 1)
            if batch is not None:
                why = f"{standing.provider} has no Batch API by key {standing.key!r} on this worker"
                await self._give_up(batch, StepError(why, failure_class=FailureClass.TRANSIENT))
        elif standing.batch_id is not None:
            batch = await batches.claim(self._database, standing.batch_id, lease, every_s=0.0)
            if batch is not None and batch.age_s > LOST_AFTER_S:
                await self._lost(batch, "no worker has its key")
            elif batch is not None:
                await batches.release(self._database, batch.batch_id, lease, troubles=batch.troubles)

    def _door(self, provider: str, key_name: str) -> Door | None:
        for key in self._means.admission.keys.keys(provider):
            api = batch_api_of(key.provider)
            if key.name == key_name and api is not None:
                return Door(key, api)
        return None

    async def _hand_in(self, errand: Errand) -> None:
        """Send a batch for the first time, or after it was looked for and is surely not there."""
        batch, waiting = errand.batch, await batches.waiting(self._database, errand.batch.batch_id)
        if not waiting:
            await batches.end(self._database, batch.batch_id)
            return
        if asyncio.get_running_loop().time() >= errand.deadline:
            return  # this worker was frozen: by now the lease may have ended
        try:
            async with asyncio.timeout_at(errand.deadline):
                with errand.door.key.in_use():
                    provider_batch_id = await errand.door.api.submit(self._submission(batch, waiting, frozenset()))
        except TimeoutError:
            log.warning("batch.unconfirmed", batch_id=batch.batch_id, provider=batch.provider)
            return
        except StepError as error:
            await self._not_taken_in(errand, error)
            return
        await until_available(lambda: batches.sent(self._database, batch.batch_id, provider_batch_id))
        log.info("batch.sent", batch_id=batch.batch_id, provider=batch.provider, model=batch.model, requests=len(waiting))

    async def _not_taken_in(self, errand: Errand, error: StepError) -> None:
        """What is only refused for now is gathered again; what is refused for good goes on as ordinary calls, which tell why."""
        batch = errand.batch
        log.warning("batch.not_taken_in", batch_id=batch.batch_id, failure_class=error.failure_class.value, problem=str(error))
        if error.spend_unknown:
            return  # it may have arrived: whoever comes when the lease has ended looks for it
        passes = error.failure_class in _PASSES
        wait_s = max(self._settings.first_look_s, error.retry_after_s or 0.0)
        if await batches.put_back(self._database, batch.batch_id, errand.lease, MAX_TRIES if passes else 0, wait_s):
            await self._give_up(batch, StepError(f"not taken in: {error}", failure_class=error.failure_class))

    async def _find(self, errand: Errand) -> None:
        """Somebody may have handed it in: send it only when it is surely not at the provider."""
        batch, waiting = errand.batch, await batches.waiting(self._database, errand.batch.batch_id)
        others = await batches.others(self._database, batch)
        try:
            async with asyncio.timeout_at(errand.deadline):
                with errand.door.key.in_use():
                    found = await errand.door.api.find(self._submission(batch, waiting, others)) if waiting else None
        except (StepError, TimeoutError) as error:
            log.warning("batch.not_looked_for", batch_id=batch.batch_id, problem=str(error) or "time-out")
            return
        if found is None:
            await batches.end(self._database, batch.batch_id)
        elif found.provider_batch_id is not None:
            await batches.sent(self._database, batch.batch_id, found.provider_batch_id)
            log.info("batch.found", batch_id=batch.batch_id, provider=batch.provider)
        elif batch.age_s > LOST_AFTER_S:
            await self._lost(batch, "the provider never told whether it has it")
        elif not found.sure:
            await batches.renew(self._database, batch.batch_id, Lease(errand.lease.holder, self._settings.first_look_s / 2))
        elif await batches.renew(self._database, batch.batch_id, errand.lease):
            again_until = asyncio.get_running_loop().time() + self._settings.submit_timeout_s
            await self._hand_in(Errand(batch, errand.lease, errand.door, again_until))

    async def _look(self, errand: Errand) -> None:
        """Ask the provider; when the batch has ended, bring its answers home."""
        batch, provider_batch_id = errand.batch, errand.batch.provider_batch_id or ""
        try:
            with errand.door.key.in_use():
                async with asyncio.timeout_at(errand.deadline):
                    standing = await errand.door.api.look(provider_batch_id)
                if standing.ended:
                    await self._bring_home(errand, provider_batch_id)
                    return
        except TimeoutError:
            log.warning("batch.not_looked_at", batch_id=batch.batch_id, problem="time-out")
        except StepError as error:
            await self._not_known(errand, error)
            return
        if batch.age_s > LOST_AFTER_S:
            await self._lost(batch, f"it did not end within {LOST_AFTER_S / 3_600:.0f} hours")
        else:
            await batches.release(self._database, batch.batch_id, errand.lease)

    async def _bring_home(self, errand: Errand, provider_batch_id: str) -> None:
        batch = errand.batch
        waiting = {batch.custom_id(each.call_id): each for each in await batches.waiting(self._database, batch.batch_id)}
        results = await errand.door.api.results(provider_batch_id, {custom_id: each.call.sent for custom_id, each in waiting.items()})
        answered = 0
        for result in results:
            answered += await self._answers.take(waiting[result.custom_id], result, batch.provider)
        await batches.end(self._database, batch.batch_id)
        log.info("batch.ended", batch_id=batch.batch_id, provider=batch.provider, answered=answered, others=len(results) - answered)

    async def _not_known(self, errand: Errand, error: StepError) -> None:
        """A look that failed: trouble passes, but a provider that does not know the batch will not know it later either."""
        batch = errand.batch
        log.warning("batch.not_looked_at", batch_id=batch.batch_id, failure_class=error.failure_class.value, problem=str(error))
        strange = error.failure_class is FailureClass.CALLER and not key_refused(error.failure_class, error.code)
        troubles = batch.troubles + 1 if strange else 0
        if troubles >= MAX_TROUBLES or batch.age_s > LOST_AFTER_S:
            await self._lost(batch, str(error))
        else:
            await batches.release(self._database, batch.batch_id, errand.lease, troubles=troubles)

    async def _lost(self, batch: Batch, why: str) -> None:
        """Nobody will hear of it any more; what it was reserved for may have been billed."""
        await self._give_up(batch, StepError(f"the batch is lost: {why}", failure_class=FailureClass.TRANSIENT, spend_unknown=True))

    async def _give_up(self, batch: Batch, error: StepError) -> None:
        for each in await batches.waiting(self._database, batch.batch_id):
            await self._answers.fail(each, error, goes_on=True)
        await batches.end(self._database, batch.batch_id)

    @staticmethod
    def _submission(batch: Batch, waiting: Sequence[Waiting], others: frozenset[str]) -> Submission:
        items = [BatchItem(batch.custom_id(each.call_id), each.call.sent) for each in waiting]
        return Submission(batch.batch_id, items, batch.made_at, others)
