"""A Batch API that says what a test tells it to say, beside a scripted model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from activities.inference.providers.batch_api import BatchResult, Found, Standing, Submission
from activities.inference.providers.protocol import Progress
from workflows.contracts.errors import StepError
from workflows.contracts.messages import ModelRequest, ModelResponse

Complete = Callable[[ModelRequest, Callable[[Progress], None]], Awaitable[ModelResponse]]


class ScriptedBatches:
    """Takes every batch in, and has it answered by the model's script when its results are read.

    Args:
        complete: answers one request.
    """

    def __init__(self, complete: Complete) -> None:
        self._complete = complete
        self.submitted: list[Submission] = []
        self.cancelled: list[str] = []
        self.refuses: list[StepError] = []
        """Raised by the next submissions, one each, instead of taking them in."""
        self.forgets: list[StepError] = []
        """Raised by the next looks, one each."""
        self.working = False
        """Whether batches are worked on still."""

    async def submit(self, submission: Submission) -> str:
        """Take it in."""
        if self.refuses:
            raise self.refuses.pop(0)
        self.submitted.append(submission)
        return f"scripted-{submission.batch_id}"

    async def find(self, submission: Submission) -> Found:
        """Whether it was taken in."""
        known = any(each.batch_id == submission.batch_id for each in self.submitted)
        return Found(f"scripted-{submission.batch_id}" if known else None)

    async def look(self, provider_batch_id: str) -> Standing:
        """Ended, unless it is told to be worked on."""
        if self.forgets:
            raise self.forgets.pop(0)
        return Standing("in_progress" if self.working else "completed", not self.working)

    async def results(self, provider_batch_id: str, requests: Mapping[str, ModelRequest]) -> list[BatchResult]:
        """The next answers of the script, in the order of the requests."""
        return [await self._result(custom_id, request) for custom_id, request in requests.items()]

    async def cancel(self, provider_batch_id: str) -> None:
        """Note it."""
        self.cancelled.append(provider_batch_id)

    async def _result(self, custom_id: str, request: ModelRequest) -> BatchResult:
        try:
            return BatchResult(custom_id, response=await self._complete(request, _unheard))
        except StepError as error:
            return BatchResult(custom_id, error=error)


def _unheard(_progress: Progress) -> None:
    """Nobody watches a batch."""
