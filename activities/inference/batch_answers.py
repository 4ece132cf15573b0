"""What a batch has brought, recorded for every run in it: answers at half the price, and why there are none."""

from __future__ import annotations

from decimal import Decimal

import structlog

from activities.edge import until_available
from activities.inference import answering, pricing, recording
from activities.inference.answering import Definitions
from activities.inference.asking import Answered
from activities.inference.batch_payment import PRICE_FACTOR
from activities.inference.providers.batch_api import BatchResult
from state import batches
from state.batches import Waiting
from state.pool import Database
from telemetry.spans import record_batch_answer
from workflows.contracts.errors import FailureClass, StepError, UnavailableError
from workflows.contracts.messages import ModelResponse, Price

log = structlog.get_logger("holdfast.inference")

_ITS_OWN = frozenset({FailureClass.CALLER, FailureClass.CONTEXT})
"""What an ordinary call would fail by too."""


class BatchAnswers:
    """Records results under the steps that asked for them. What is recorded already stays as it is."""

    def __init__(self, database: Database, definitions: Definitions) -> None:
        self._database = database
        self._definitions = definitions

    async def take(self, waiting: Waiting, result: BatchResult, provider: str) -> bool:
        """Settle one request; whether it was answered.

        Raises:
            UnavailableError: the database was away for too long; the result can be read again.
        """
        if result.response is None:
            error = result.error or StepError(
                f"the batch ended without it ({result.not_done})", failure_class=FailureClass.TRANSIENT, code="not_done"
            )
            await self.fail(waiting, error, goes_on=error.failure_class not in _ITS_OWN)
            return False
        try:
            await self._record(waiting, result.response, provider)
        except UnavailableError:
            raise
        except StepError as error:
            await self.fail(waiting, error, goes_on=True)
            return False
        except Exception as error:
            # One answer that cannot be read must not keep the others of the batch from their runs.
            log.error("batch.answer_not_read", call_id=waiting.call_id, error_type=type(error).__name__, exc_info=error)
            bug = StepError(f"{type(error).__name__} while the answer was read", failure_class=FailureClass.CODE, spend_unknown=True)
            await self.fail(waiting, bug, goes_on=True)
            return False
        return True

    async def fail(self, waiting: Waiting, error: StepError, *, goes_on: bool) -> None:
        """Close the books of a request without an answer; `goes_on`: its step is made as an ordinary call."""
        await until_available(
            lambda: batches.fail(
                self._database,
                waiting.call_id,
                error.failure_class.value,
                str(error),
                unknown=error.spend_unknown,
                goes_on=goes_on,
            )
        )

    async def _record(self, waiting: Waiting, response: ModelResponse, provider: str) -> None:
        call = waiting.call
        full = pricing.charge(call.price_provider, call.sent.model, response.usage, call.override)
        price = Price(cost_usd=full.cost_usd * PRICE_FACTOR, version=f"{full.version}, batch")
        standing = await batches.standing(self._database, waiting.call_id)
        unknown_usd = standing.unknown_usd if standing is not None else Decimal(0)
        answered = Answered(call.sent, response, price, unknown_usd, provider, call.downgraded_from)
        seat = await answering.seat_of(self._definitions, call.call)
        await recording.record(self._database, waiting.call_id, answered, answering.kept(call.call, seat, answered))
        await until_available(lambda: batches.answered(self._database, waiting.call_id))
        record_batch_answer(
            response, price.cost_usd, provider=provider, model=call.sent.model, agent=call.call.agent.name, tier=call.call.agent.model
        )
