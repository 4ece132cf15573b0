"""What both dialects' batch endpoints share: keys, submissions that get lost, and answers that say they are simulated."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from devstack.simulated_provider.batches import BatchItem, SimulatedBatch
from devstack.simulated_provider.dialect import BadRequestError, Dialect, ErrorReply
from devstack.simulated_provider.faults import Fault, FaultKind

if TYPE_CHECKING:
    from devstack.simulated_provider.server import SimulatedProvider

LISTED = 20
"""How many batches a page of the list holds when the client names no number."""


class BatchRoutes:
    """The batch endpoints of one dialect."""

    def __init__(self, provider: SimulatedProvider, dialect: Dialect) -> None:
        self.provider = provider
        self.dialect = dialect

    def admit(self, http: web.Request) -> None:
        """Refuse a key that is not accepted."""
        key, accepted = self.dialect.key_of(http.headers), self.provider.keys
        if not key or (accepted is not None and key not in accepted):
            raise refusal(self.dialect.error(Fault(kind=FaultKind.BAD_KEY), key or ""))

    def batch(self, http: web.Request) -> SimulatedBatch:
        """The batch that the path names, or HTTP 404."""
        self.admit(http)
        found = self.provider.batches.find(http.match_info["batch_id"], self.dialect)
        if found is None:
            raise refusal(self.dialect.error(Fault(kind=FaultKind.NOT_FOUND), ""))
        return found

    def page(self, http: web.Request, after: str) -> tuple[list[SimulatedBatch], bool]:
        """The batches of one page of the list, and whether more follow."""
        self.admit(http)
        batches = self.provider.batches.of(self.dialect)
        cursor = http.query.get(after)
        if cursor:
            batches = batches[[batch.batch_id for batch in batches].index(cursor) + 1 :]
        limit = int(http.query.get("limit", LISTED))
        return batches[:limit], len(batches) > limit

    async def told(self, http: web.Request, batch: SimulatedBatch, document: dict[str, Any]) -> web.Response:
        """The answer to a submission; a fault may lose it, when the batch is taken in already."""
        fault = self._lost(batch.items)
        if fault and fault.kind is FaultKind.BATCH_ANSWER_HELD:
            await asyncio.Event().wait()  # until the client hangs up, which cancels this handler
        if fault and http.transport is not None:
            http.transport.close()
        return self.json(document)

    def _lost(self, items: list[BatchItem]) -> Fault | None:
        try:
            return self.provider.faults.on_submission(self.dialect.parse(items[0].body).request) if items else None
        except BadRequestError:
            return None

    def json(self, document: dict[str, Any]) -> web.Response:
        """A document."""
        return web.json_response(document, headers={"x-simulated": "1"})

    def lines(self, documents: list[dict[str, Any]]) -> web.Response:
        """JSON lines."""
        text = "".join(json.dumps(document) + "\n" for document in documents)
        return web.Response(text=text, content_type="application/x-jsonl", headers={"x-simulated": "1"})

    def bad_request(self, message: str) -> web.HTTPException:
        """HTTP 400, to be raised."""
        return refusal(self.dialect.bad_request(message))


def refusal(reply: ErrorReply) -> web.HTTPException:
    """An error of the dialect, to be raised."""

    class Refusal(web.HTTPException):
        status_code = reply.status

    return Refusal(text=json.dumps(reply.body), content_type="application/json", headers={"x-simulated": "1"})
