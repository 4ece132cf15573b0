"""What a Batch API is here: many requests handed in at once, answered within a day, at half the price."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from activities.inference.providers import failures
from activities.inference.providers.protocol import Provider
from workflows.contracts.errors import StepError
from workflows.contracts.messages import ModelRequest, ModelResponse


@dataclass(frozen=True, slots=True)
class BatchItem:
    """One request of a batch. `custom_id` is unlike that of any other batch, so that it tells whose a found batch is."""

    custom_id: str
    request: ModelRequest


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch that may or may not have reached the provider."""

    batch_id: str
    """Ours."""
    items: Sequence[BatchItem]
    made_at: datetime
    """When it was put together: the provider took it in after that, if at all."""
    others: frozenset[str] = frozenset()
    """The provider's ids of batches that are known to be others."""


@dataclass(frozen=True, slots=True)
class Found:
    """Whether the provider has the batch. Without an id it has not; when it is not sure, nobody can tell yet."""

    provider_batch_id: str | None = None
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the provider is with a batch, in its own word."""

    status: str
    ended: bool


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of one request: an answer, an error, or neither, when it was never worked on; then `not_done` says why."""

    custom_id: str
    response: ModelResponse | None = None
    error: StepError | None = None
    not_done: str = ""


class BatchApi(Protocol):
    """A provider's Batch API. Every method raises `StepError` and nothing else; none retries."""

    async def submit(self, submission: Submission) -> str:
        """Hand a batch in; the provider's id of it."""
        ...

    async def find(self, submission: Submission) -> Found:
        """Look for a batch whose handing in was never confirmed."""
        ...

    async def look(self, provider_batch_id: str) -> Standing:
        """Ask how far it is."""
        ...

    async def results(self, provider_batch_id: str, requests: Mapping[str, ModelRequest]) -> list[BatchResult]:
        """What became of each request, by custom id, once the batch has ended."""
        ...

    async def cancel(self, provider_batch_id: str) -> None:
        """Have it ended before its time; what is answered already is billed."""
        ...


def read_result(provider: str, custom_id: str, read: Callable[[], BatchResult]) -> BatchResult:
    """One result; what cannot be read is that request's error and not the whole batch's."""
    try:
        return read()
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return BatchResult(custom_id, error=failures.unreadable(provider, f"a result has another shape ({type(error).__name__})"))


def batch_api_of(provider: Provider | None) -> BatchApi | None:
    """The provider's Batch API, when it has one."""
    return getattr(provider, "batches", None)
