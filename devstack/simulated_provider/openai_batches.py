"""The Batch API of the OpenAI dialect: a file of requests is uploaded, a batch is made of it, its results are files again."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from devstack.simulated_provider.batch_routes import BatchRoutes, refusal
from devstack.simulated_provider.batches import EXPIRES_AFTER_S, BatchItem, Ending, SimulatedBatch
from devstack.simulated_provider.faults import Fault, FaultKind
from devstack.simulated_provider.openai_dialect import OpenAIDialect

if TYPE_CHECKING:
    from devstack.simulated_provider.server import SimulatedProvider

_ENDPOINT = "/v1/chat/completions"
_IN_OUTPUT = frozenset({Ending.SUCCEEDED})
_IN_ERRORS = frozenset({Ending.ERRORED, Ending.EXPIRED, Ending.CANCELLED})
_NOT_DONE = {
    Ending.EXPIRED: ("batch_expired", "This request could not be executed before the completion window expired."),
    Ending.CANCELLED: ("batch_cancelled", "This request was not executed because the batch was cancelled."),
}


def add_openai_batch_routes(app: web.Application, provider: SimulatedProvider) -> None:
    """Serve `/v1/files` and `/v1/batches`."""
    routes = _Routes(provider)
    app.router.add_post("/v1/files", routes.upload)
    app.router.add_get("/v1/files/{file_id}/content", routes.content)
    app.router.add_post("/v1/batches", routes.create)
    app.router.add_get("/v1/batches", routes.list)
    app.router.add_get("/v1/batches/{batch_id}", routes.retrieve)
    app.router.add_post("/v1/batches/{batch_id}/cancel", routes.cancel)


class _Routes(BatchRoutes):
    def __init__(self, provider: SimulatedProvider) -> None:
        super().__init__(provider, OpenAIDialect())
        self._files: dict[str, bytes] = {}

    async def upload(self, http: web.Request) -> web.Response:
        self.admit(http)
        form = await http.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            raise self.bad_request("purpose must be 'batch', and file a file")
        file_id = f"sim-file-{len(self._files) + 1}"
        self._files[file_id] = body = file.file.read()
        about = {"object": "file", "purpose": "batch", "filename": file.filename, "status": "processed"}
        return self.json({"id": file_id, "bytes": len(body), "created_at": int(time.time()), **about})

    async def content(self, http: web.Request) -> web.Response:
        self.admit(http)
        file_id = http.match_info["file_id"]
        for batch in self.provider.batches.of(self.dialect):
            if file_id == _output_id(batch):
                return self.lines([self._line(item) for item in batch.items if item.ending in _IN_OUTPUT])
            if file_id == _error_id(batch):
                return self.lines([self._line(item) for item in batch.items if item.ending in _IN_ERRORS])
        if file_id not in self._files:
            raise refusal(self.dialect.error(Fault(kind=FaultKind.NOT_FOUND), ""))
        return web.Response(body=self._files[file_id], headers={"x-simulated": "1"})

    async def create(self, http: web.Request) -> web.Response:
        self.admit(http)
        given = await http.json()
        text = self._files.get(given.get("input_file_id"))
        if text is None or given.get("endpoint") != _ENDPOINT or given.get("completion_window") != "24h":
            raise self.bad_request(f"input_file_id, completion_window 24h and endpoint {_ENDPOINT} are needed")
        items = [self._item(json.loads(line)) for line in text.splitlines() if line.strip()]
        if len({item.custom_id for item in items}) != len(items) or len({item.body.get("model") for item in items}) != 1:
            raise self.bad_request("custom ids must differ, and all requests name one model")
        batch = self.provider.batches.create(self.dialect, items, metadata=given.get("metadata"), input_file_id=given["input_file_id"])
        return await self.told(http, batch, _document(batch))

    async def list(self, http: web.Request) -> web.Response:
        batches, more = self.page(http, "after")
        return self.json({"object": "list", "data": [_document(batch) for batch in batches], "has_more": more})

    async def retrieve(self, http: web.Request) -> web.Response:
        return self.json(_document(self.batch(http)))

    async def cancel(self, http: web.Request) -> web.Response:
        batch = self.batch(http)
        self.provider.batches.cancel(batch)
        return self.json(_document(batch))

    def _item(self, line: Any) -> BatchItem:
        if line.get("method") != "POST" or line.get("url") != _ENDPOINT or not line.get("custom_id"):
            raise self.bad_request(f"each line needs a custom_id, method POST and url {_ENDPOINT}")
        return BatchItem(line["custom_id"], line["body"])

    def _line(self, item: BatchItem) -> dict[str, Any]:
        response, error = None, None
        if item.answer is not None:
            response = {"status_code": 200, "request_id": item.request_id, "body": self.dialect.body(item.answer)}
        elif item.error is not None:
            response = {"status_code": item.error.status, "request_id": item.request_id, "body": item.error.body}
        else:
            code, message = _NOT_DONE[item.ending]
            error = {"code": code, "message": message}
        return {"id": f"sim-{item.custom_id}", "custom_id": item.custom_id, "response": response, "error": error}


def _output_id(batch: SimulatedBatch) -> str:
    return f"{batch.batch_id}-output"


def _error_id(batch: SimulatedBatch) -> str:
    return f"{batch.batch_id}-errors"


def _status(batch: SimulatedBatch) -> str:
    if batch.cancelled_at is not None:
        return "cancelled" if batch.ended_at else "cancelling"
    if batch.ended_at is None:
        return "in_progress"
    return "expired" if batch.expired else "completed"


def _document(batch: SimulatedBatch) -> dict[str, Any]:
    failed = batch.count(Ending.ERRORED) + batch.count(Ending.EXPIRED) + batch.count(Ending.CANCELLED)
    done = batch.count(Ending.SUCCEEDED)
    created = int(batch.created_at)
    return {
        "id": batch.batch_id,
        "object": "batch",
        "endpoint": _ENDPOINT,
        "completion_window": "24h",
        "input_file_id": batch.input_file_id,
        "status": _status(batch),
        "created_at": created,
        "expires_at": created + EXPIRES_AFTER_S,
        "output_file_id": _output_id(batch) if batch.ended_at and done else None,
        "error_file_id": _error_id(batch) if batch.ended_at and failed else None,
        "request_counts": {"total": len(batch.items), "completed": done, "failed": failed},
        "metadata": batch.metadata,
    }
