"""Anthropic's Message Batches: the requests stand in the body, the results are JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import anthropic
import httpx2
from anthropic.types.messages import MessageBatch

from activities.inference.providers import failures
from activities.inference.providers.anthropic_messages import body_of
from activities.inference.providers.batch_api import BatchItem, BatchResult, Found, Standing, Submission, read_result
from activities.inference.providers.connection import idempotency_header, is_simulated
from activities.inference.providers.messages_stream import MessagesGathering
from activities.inference.providers.sdk_provider import SdkProvider
from workflows.contracts.messages import ModelRequest, ModelResponse

ROOT = "/v1/messages/batches"
CLOCK_SKEW = timedelta(seconds=300)
"""By how much the provider's clock may be behind the database's."""


class AnthropicBatches:
    """The Batch API beside a provider that speaks Messages."""

    def __init__(self, provider: SdkProvider, client: anthropic.AsyncAnthropic) -> None:
        self._provider = provider
        self._client = client

    async def submit(self, submission: Submission) -> str:
        """Hand the requests in; the provider's id of the batch."""
        with self._provider.translating(submission.items[0].request):
            batch = await self._client.post(
                ROOT,
                cast_to=MessageBatch,
                body={"requests": [_request(item) for item in submission.items]},
                options={"headers": idempotency_header(submission.batch_id)},
            )
            return batch.id

    async def find(self, submission: Submission) -> Found:
        """Look through the newest batches for one with our custom ids.

        A batch carries no mark, and its custom ids can be read only when it has ended: until then one of the same age and size may
        be ours or another program's, and nobody can tell.
        """
        unsure = False
        custom_ids = {item.custom_id for item in submission.items}
        with self._provider.translating(submission.items[0].request):
            async for batch in self._client.messages.batches.list(limit=100):
                if batch.created_at < submission.made_at - CLOCK_SKEW:
                    break
                if batch.id in submission.others or _size(batch) != len(custom_ids):
                    continue
                if batch.results_url is None:
                    unsure = True
                elif custom_ids & {line["custom_id"] for line in (await self._lines(batch.id))[0]}:
                    return Found(batch.id)
        return Found(sure=not unsure)

    async def look(self, provider_batch_id: str) -> Standing:
        """The batch's status."""
        with self._provider.translating():
            batch = await self._client.messages.batches.retrieve(provider_batch_id)
        return Standing(batch.processing_status, batch.processing_status == "ended")

    async def results(self, provider_batch_id: str, requests: Mapping[str, ModelRequest]) -> list[BatchResult]:
        """Read the results."""
        with self._provider.translating():
            lines, simulated = await self._lines(provider_batch_id)
            found = {
                line["custom_id"]: self._result(line, requests[line["custom_id"]], simulated)
                for line in lines
                if line["custom_id"] in requests
            }
        return [found.get(custom_id, BatchResult(custom_id, not_done="missing")) for custom_id in requests]

    async def cancel(self, provider_batch_id: str) -> None:
        """Have it ended before its time."""
        with self._provider.translating():
            await self._client.messages.batches.cancel(provider_batch_id)

    async def _lines(self, provider_batch_id: str) -> tuple[list[dict[str, Any]], bool]:
        """Past the SDK's models, which are rebuilt per line at a cost that grows with the answers."""
        response = await self._client.get(f"{ROOT}/{provider_batch_id}/results", cast_to=httpx2.Response)
        return [json.loads(line) for line in response.text.split("\n") if line.strip()], is_simulated(response)

    def _result(self, line: Mapping[str, Any], request: ModelRequest, simulated: bool) -> BatchResult:
        return read_result(self._provider.name, line["custom_id"], lambda: self._read(line, request, simulated))

    def _read(self, line: Mapping[str, Any], request: ModelRequest, simulated: bool) -> BatchResult:
        custom_id, result = line["custom_id"], line["result"]
        if result["type"] == "succeeded":
            return BatchResult(custom_id, response=response_of(result["message"], request, simulated=simulated))
        if result["type"] == "errored":
            return BatchResult(custom_id, error=self._provider.refused(failures.read_failure(None, result["error"], {}), request))
        return BatchResult(custom_id, not_done=result["type"])


def _request(item: BatchItem) -> dict[str, Any]:
    body = body_of(item.request)
    del body["stream"]
    return {"custom_id": item.custom_id, "params": body}


def _size(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


def response_of(message: Mapping[str, Any], request: ModelRequest, *, simulated: bool) -> ModelResponse:
    """A whole message, read as if it were a stream of whole blocks."""
    gathering = MessagesGathering(request)
    gathering.add({"type": "message_start", "message": message})
    for index, block in enumerate(message["content"]):
        gathering.add({"type": "content_block_start", "index": index, "content_block": block})
    gathering.add({"type": "message_delta", "delta": {"stop_reason": message["stop_reason"]}, "usage": message["usage"]})
    return gathering.response(request_id=None, simulated=simulated)
