"""The Message Batches API of the Anthropic dialect: the requests stand in the body, the results are JSON lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from devstack.simulated_provider.anthropic_dialect import AnthropicDialect
from devstack.simulated_provider.batch_routes import BatchRoutes
from devstack.simulated_provider.batches import EXPIRES_AFTER_S, BatchItem, Ending, SimulatedBatch

if TYPE_CHECKING:
    from devstack.simulated_provider.server import SimulatedProvider

_ROOT = "/v1/messages/batches"
_COUNTED = {
    "processing": Ending.PENDING,
    "succeeded": Ending.SUCCEEDED,
    "errored": Ending.ERRORED,
    "canceled": Ending.CANCELLED,
    "expired": Ending.EXPIRED,
}


def add_anthropic_batch_routes(app: web.Application, provider: SimulatedProvider) -> None:
    """Serve `/v1/messages/batches`."""
    routes = _Routes(provider, AnthropicDialect())
    app.router.add_post(_ROOT, routes.create)
    app.router.add_get(_ROOT, routes.list)
    app.router.add_get(f"{_ROOT}/{{batch_id}}", routes.retrieve)
    app.router.add_get(f"{_ROOT}/{{batch_id}}/results", routes.results)
    app.router.add_post(f"{_ROOT}/{{batch_id}}/cancel", routes.cancel)


class _Routes(BatchRoutes):
    async def create(self, http: web.Request) -> web.Response:
        self.admit(http)
        given = await http.json()
        items = [self._item(raw) for raw in given.get("requests") or ()]
        if not items or len({item.custom_id for item in items}) != len(items):
            raise self.bad_request("requests: at least one is needed, and custom ids must differ")
        batch = self.provider.batches.create(self.dialect, items)
        return await self.told(http, batch, self._document(batch))

    async def list(self, http: web.Request) -> web.Response:
        batches, more = self.page(http, "after_id")
        ids = [batch.batch_id for batch in batches]
        edges = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return self.json({"data": [self._document(batch) for batch in batches], "has_more": more, **edges})

    async def retrieve(self, http: web.Request) -> web.Response:
        return self.json(self._document(self.batch(http)))

    async def results(self, http: web.Request) -> web.Response:
        batch = self.batch(http)
        if batch.ended_at is None:
            raise self.bad_request("the batch has not ended: it has no results yet")
        return self.lines([{"custom_id": item.custom_id, "result": self._result(item)} for item in batch.items])

    async def cancel(self, http: web.Request) -> web.Response:
        batch = self.batch(http)
        self.provider.batches.cancel(batch)
        return self.json(self._document(batch))

    def _item(self, raw: Any) -> BatchItem:
        if not raw.get("custom_id") or not isinstance(raw.get("params"), dict):
            raise self.bad_request("requests: each needs custom_id and params")
        return BatchItem(raw["custom_id"], raw["params"])

    def _result(self, item: BatchItem) -> dict[str, Any]:
        if item.answer is not None:
            return {"type": "succeeded", "message": self.dialect.body(item.answer)}
        if item.error is not None:
            return {"type": "errored", "error": item.error.body | {"request_id": item.request_id}}
        return {"type": "expired" if item.ending is Ending.EXPIRED else "canceled"}

    def _document(self, batch: SimulatedBatch) -> dict[str, Any]:
        ended = batch.ended_at is not None
        status = "ended" if ended else "canceling" if batch.cancelled_at is not None else "in_progress"
        return {
            "id": batch.batch_id,
            "type": "message_batch",
            "processing_status": status,
            # Counted at the end only, as the real one does.
            "request_counts": {name: batch.count(ending) for name, ending in _COUNTED.items()},
            "created_at": _time(batch.created_at),
            "expires_at": _time(batch.created_at + EXPIRES_AFTER_S),
            "ended_at": _time(batch.ended_at),
            "cancel_initiated_at": _time(batch.cancelled_at),
            "archived_at": None,
            "results_url": f"{self.provider.url}{_ROOT}/{batch.batch_id}/results" if ended else None,
        }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
