"""OpenAI's Batch API: a file of requests is uploaded and a batch made of it; answers and errors are files again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import openai
from openai.types import Batch

from activities.inference.providers import failures
from activities.inference.providers.batch_api import BatchItem, BatchResult, Found, Standing, Submission, read_result
from activities.inference.providers.chat_stream import ChatGathering
from activities.inference.providers.connection import idempotency_header, is_simulated
from activities.inference.providers.failures import Failure
from activities.inference.providers.openai_chat import body_of
from activities.inference.providers.sdk_provider import SdkProvider
from workflows.contracts.messages import ModelRequest, ModelResponse

ENDPOINT: Final = "/v1/chat/completions"
MARK = "holdfast_batch"
"""The key of the metadata that holds our id: by it a batch is found whose handing in was never confirmed."""
CLOCK_SKEW_S = 300
"""By how much the provider's clock may be behind the database's."""

_ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
_NOT_DONE = frozenset({"batch_expired", "batch_cancelled"})


class OpenAIBatches:
    """The Batch API beside a provider that speaks Chat Completions."""

    def __init__(self, provider: SdkProvider, client: openai.AsyncOpenAI, output_limit: str) -> None:
        self._provider = provider
        self._client = client
        self._output_limit = output_limit

    async def submit(self, submission: Submission) -> str:
        """Upload the requests and make a batch of them; the provider's id of it."""
        with self._provider.translating(submission.items[0].request):
            file = await self._client.files.create(
                file=(f"{submission.batch_id}.jsonl", "".join(map(self._line, submission.items)).encode()),
                purpose="batch",
                extra_headers=idempotency_header(f"{submission.batch_id}:file"),
            )
            batch = await self._client.batches.create(
                input_file_id=file.id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={MARK: submission.batch_id},
                extra_headers=idempotency_header(submission.batch_id),
            )
            return batch.id

    def _line(self, item: BatchItem) -> str:
        body = body_of(item.request, self._output_limit)
        del body["stream"], body["stream_options"]
        return json.dumps({"custom_id": item.custom_id, "method": "POST", "url": ENDPOINT, "body": body}) + "\n"

    async def find(self, submission: Submission) -> Found:
        """Look through the newest batches for our mark."""
        with self._provider.translating(submission.items[0].request):
            async for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(MARK) == submission.batch_id:
                    return Found(batch.id)
                if batch.created_at < submission.made_at.timestamp() - CLOCK_SKEW_S:
                    break
        return Found()

    async def look(self, provider_batch_id: str) -> Standing:
        """The batch's status."""
        with self._provider.translating():
            batch = await self._client.batches.retrieve(provider_batch_id)
        return Standing(batch.status, batch.status in _ENDED)

    async def results(self, provider_batch_id: str, requests: Mapping[str, ModelRequest]) -> list[BatchResult]:
        """Read both files; a batch that failed as a whole has none, and has done none of its requests."""
        with self._provider.translating():
            batch = await self._client.batches.retrieve(provider_batch_id)
            found = {}
            for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
                content = await self._client.files.content(file_id)
                for line in _lines(content.text):
                    if line["custom_id"] in requests:
                        found[line["custom_id"]] = self._result(line, requests[line["custom_id"]], is_simulated(content.response))
        return [found.get(custom_id) or self._without_result(batch, custom_id, requests[custom_id]) for custom_id in requests]

    async def cancel(self, provider_batch_id: str) -> None:
        """Have it ended before its time."""
        with self._provider.translating():
            await self._client.batches.cancel(provider_batch_id)

    def _result(self, line: Mapping[str, Any], request: ModelRequest, simulated: bool) -> BatchResult:
        return read_result(self._provider.name, line["custom_id"], lambda: self._read(line, request, simulated))

    def _read(self, line: Mapping[str, Any], request: ModelRequest, simulated: bool) -> BatchResult:
        custom_id, error, response = line["custom_id"], line.get("error"), line.get("response")
        if error and error.get("code") in _NOT_DONE:
            return BatchResult(custom_id, not_done=error["code"])
        if not error and response and response["status_code"] == 200:
            answer = response_of(response["body"], request, response.get("request_id"), simulated=simulated)
            return BatchResult(custom_id, response=answer)
        failure = (
            failures.read_failure(response["status_code"], response["body"], {}) if response else failures.read_failure(None, error, {})
        )
        return BatchResult(custom_id, error=self._provider.refused(failure, request))

    def _without_result(self, batch: Batch, custom_id: str, request: ModelRequest) -> BatchResult:
        errors = batch.errors.data if batch.errors and batch.errors.data else []
        if batch.status != "failed" or not errors:
            return BatchResult(custom_id, not_done=batch.status)
        # It says nothing of this request: one line, or the account's limit for batches, may have failed them all.
        refused = self._provider.refused(Failure(400, code=errors[0].code or "", message=errors[0].message or ""), request)
        return BatchResult(custom_id, not_done=f"failed as a whole: {refused}")


def _lines(text: str) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in text.split("\n") if line.strip())


def response_of(body: Mapping[str, Any], request: ModelRequest, request_id: str | None, *, simulated: bool) -> ModelResponse:
    """A whole completion, read as if it were a stream of one chunk."""
    gathering = ChatGathering(request)
    choices = [{"delta": choice["message"], "finish_reason": choice["finish_reason"]} for choice in body["choices"]]
    gathering.add({**body, "choices": choices})
    return gathering.response(request_id=request_id, simulated=simulated)
