"""One request and its answer, from the first byte read to the journal entry closed."""

from __future__ import annotations

import asyncio
import json
import math
import traceback
from dataclasses import dataclass, field
from email.utils import formatdate
from time import time
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import web

from devstack.simulated_provider.dialect import BadRequestError, Dialect, ErrorReply, Incoming, Planned
from devstack.simulated_provider.faults import CHANGES_ANSWER, CUT_STREAM, ERROR_IN_STREAM, Fault, FaultKind, RetryAfterForm
from devstack.simulated_provider.journal import Delivery, JournalEntry
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.limits import Demand

if TYPE_CHECKING:
    from devstack.simulated_provider.server import SimulatedProvider

_SHORTEST_PAUSE_S = 0.01
"""Tokens that fall into less than this are sent together: a timer per token would cost more than the answer."""
_RETRIABLE = frozenset({FaultKind.RATE_LIMITED, FaultKind.UNAVAILABLE, FaultKind.OVERLOADED, FaultKind.SERVER_ERROR})
_OUTPUT_WHEN_NOT_GIVEN = 16
SHOWN_OF_KEY = 4
"""Last characters of a key that the journal shows, and that limits and faults name it by."""


@dataclass(slots=True)
class Exchange:
    """Handles one request."""

    provider: SimulatedProvider
    dialect: Dialect
    http: web.Request
    entry: JournalEntry
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.COMPLETE

    async def run(self) -> web.StreamResponse:
        """Answer, and close the journal entry whatever happens."""
        self.headers = {"x-simulated": "1", self.dialect.request_id_header: self.entry.request_id}
        try:
            return await self._answer()
        except asyncio.CancelledError:
            self.delivery = Delivery.CLIENT_GONE
            raise
        except ConnectionError:
            if self.delivery is Delivery.COMPLETE:
                self.delivery = Delivery.CLIENT_GONE
            return web.Response(status=499)  # reaches nobody
        finally:
            self.provider.requests.finish(self.entry, self.delivery)

    async def _answer(self) -> web.StreamResponse:
        try:
            incoming = await self._read()
        except BadRequestError as error:
            return self._refuse(self.dialect.bad_request(str(error)), None)
        fault = self.provider.outages.fault(incoming.request.model) or self._refused_key()
        fault = fault or self.provider.faults.before_answer(incoming.request, self.entry.key)
        if fault and fault.kind not in CHANGES_ANSWER and not _shows_in_stream(fault, incoming):
            return self._refuse_by(fault)
        demand = Demand(self._input_tokens(incoming), incoming.max_output_tokens or _OUTPUT_WHEN_NOT_GIVEN)
        verdict = self.provider.limiter.admit(incoming.request.model, demand, self.entry.key)
        self.headers |= self.dialect.limit_headers(verdict.buckets)
        if verdict.refused_by:
            if not verdict.too_large:
                self._tell_wait(verdict.retry_after_s, RetryAfterForm.SECONDS)
            return self._refuse(self.dialect.rate_limited(verdict, incoming.request.model), "limit")
        try:
            return await self._work(incoming, fault)
        finally:
            self.provider.limiter.settle(verdict, demand, self.entry.usage.output_tokens if self.entry.usage else 0)

    async def _work(self, incoming: Incoming, fault: Fault | None) -> web.StreamResponse:
        try:
            planned, fault = self.provider.answerer.plan(incoming, self.entry.request_id, fault)
        except Exception:
            traceback.print_exc()
            return self._refuse_by(Fault(kind=FaultKind.SERVER_ERROR, name="policy_raised"))
        self._charge(planned, fault)
        return await self._deliver(incoming, planned, fault)

    async def _read(self) -> Incoming:
        key = self.http.headers.get("Idempotency-Key")
        self.entry.idempotency_key = unquote(key) if key is not None else None
        self.entry.key = (self.dialect.key_of(self.http.headers) or "")[-SHOWN_OF_KEY:]
        try:
            body = json.loads(await self.http.read())
        except ValueError as error:
            raise BadRequestError("we could not parse the JSON body of your request") from error
        if not isinstance(body, dict):
            raise BadRequestError("the body must be a JSON object")
        incoming = self.dialect.parse(body)
        self.entry.model = incoming.request.model
        self.entry.streamed = incoming.stream
        return incoming

    def _refused_key(self) -> Fault | None:
        key, accepted = self.dialect.key_of(self.http.headers), self.provider.keys
        if key and (accepted is None or key in accepted):
            return None
        return Fault(kind=FaultKind.BAD_KEY)

    def _input_tokens(self, incoming: Incoming) -> int:
        return self.provider.answerer.input_tokens(incoming.request)

    def _charge(self, planned: Planned, fault: Fault | None) -> None:
        """From here on the model has worked: the provider bills that, unless the failure is its own."""
        self.entry.usage = planned.usage
        self.entry.fault = fault.label if fault else None
        self.entry.billed = not (fault and fault.kind in ERROR_IN_STREAM)

    async def _deliver(self, incoming: Incoming, planned: Planned, fault: Fault | None) -> web.StreamResponse:
        latency = await self._wait(planned.model)
        self.entry.status = 200
        if incoming.stream:
            return await self._stream(incoming, planned, fault, latency)
        if latency.per_token_s:
            await asyncio.sleep(latency.per_token_s * planned.usage.output_tokens)
        return web.json_response(self.dialect.body(planned), headers=self.headers)

    async def _wait(self, model: str) -> Latency:
        """Take the time that comes before the first token."""
        latency = self.provider.latency_of(model)
        if latency.first_token_s:
            await asyncio.sleep(latency.first_token_s)
        return latency

    async def _stream(self, incoming: Incoming, planned: Planned, fault: Fault | None, latency: Latency) -> web.StreamResponse:
        frames = self.dialect.frames(planned, incoming.include_usage)
        if fault and fault.kind in CUT_STREAM | ERROR_IN_STREAM:
            frames = frames[: min(fault.after_events, len(frames) - 1)]
        response = web.StreamResponse(headers={**self.headers, "Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(self.http)
        pause_s = latency.per_token_s * planned.usage.output_tokens / max(1, len(frames))
        group = max(1, math.ceil(_SHORTEST_PAUSE_S / pause_s)) if pause_s else len(frames) or 1
        for at in range(0, len(frames), group):
            chunk = frames[at : at + group]
            await response.write(b"".join(chunk))
            if pause_s:
                await asyncio.sleep(pause_s * len(chunk))
        if fault:
            await self._break(response, fault)
        await response.write_eof()
        return response

    async def _break(self, response: web.StreamResponse, fault: Fault) -> None:
        if fault.kind in ERROR_IN_STREAM:
            await response.write(self.dialect.error_frame(fault))
        elif fault.kind is FaultKind.STREAM_STOPS:
            await asyncio.Event().wait()  # until the client hangs up, which cancels this handler
        elif fault.kind is FaultKind.STREAM_ENDS_EARLY:
            self.delivery = Delivery.BROKEN_OFF
        elif fault.kind is FaultKind.STREAM_BREAKS:
            self.delivery = Delivery.BROKEN_OFF
            if self.http.transport is not None:
                self.http.transport.close()

    def _refuse_by(self, fault: Fault) -> web.Response:
        if fault.kind in _RETRIABLE:
            self._tell_wait(fault.retry_after_s, fault.retry_after_form)
        key = self.dialect.key_of(self.http.headers) or ""
        return self._refuse(self.dialect.error(fault, key), fault.label)

    def _refuse(self, reply: ErrorReply, fault: str | None) -> web.Response:
        self.entry.status = reply.status
        self.entry.fault = fault
        return web.json_response(reply.body, status=reply.status, headers={**self.headers, **reply.headers})

    def _tell_wait(self, wait_s: float, form: RetryAfterForm) -> None:
        if form is RetryAfterForm.SECONDS:
            self.headers["retry-after"] = str(math.ceil(wait_s))
        elif form is RetryAfterForm.MS:
            self.headers["retry-after-ms"] = str(math.ceil(wait_s * 1000))
        elif form is RetryAfterForm.DATE:
            self.headers["retry-after"] = formatdate(math.ceil(time() + wait_s), usegmt=True)


def _shows_in_stream(fault: Fault, incoming: Incoming) -> bool:
    return incoming.stream and fault.kind in CUT_STREAM | ERROR_IN_STREAM
