"""The control endpoints: rules, limits, keys, outages, latency, batches and the journal of a running simulated provider, over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from devstack.simulated_provider.faults import Fault
from devstack.simulated_provider.latency import Latency
from devstack.simulated_provider.limits import Limits
from devstack.simulated_provider.outage import Outage

if TYPE_CHECKING:
    from devstack.simulated_provider.server import SimulatedProvider

_FAULTS = TypeAdapter(list[Fault] | Fault)
_LIMITS = TypeAdapter(dict[str, Limits])
_OUTAGE = TypeAdapter(Outage)
_KEYS = TypeAdapter(list[str] | None)
_LATENCY = TypeAdapter(dict[str, Latency])
_SECONDS = TypeAdapter(float)


def add_control_routes(app: web.Application, provider: SimulatedProvider) -> None:
    """Serve `/control/…`: health, faults, limits, outage, keys, latency, batches, journal."""
    control = _Control(provider)
    app.router.add_get("/control/health", control.health)
    app.router.add_get("/control/faults", control.faults)
    app.router.add_post("/control/faults", control.add_faults)
    app.router.add_delete("/control/faults", control.clear_faults)
    app.router.add_get("/control/limits", control.limits)
    app.router.add_put("/control/limits", control.change_limits)
    app.router.add_get("/control/outage", control.outage)
    app.router.add_put("/control/outage", control.begin_outage)
    app.router.add_delete("/control/outage", control.end_outage)
    app.router.add_put("/control/keys", control.change_keys)
    app.router.add_put("/control/latency", control.change_latency)
    app.router.add_put("/control/batch_s", control.change_batches)
    app.router.add_get("/control/batches", control.batches)
    app.router.add_get("/control/journal", control.journal)


async def _read(http: web.Request, adapter: TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_json(await http.read())
    except ValidationError as error:
        problems = [{"field": ".".join(map(str, item["loc"])), "problem": item["msg"]} for item in error.errors()]
        raise web.HTTPUnprocessableEntity(text=json.dumps({"problems": problems}), content_type="application/json") from error


class _Control:
    def __init__(self, provider: SimulatedProvider) -> None:
        self._provider = provider

    async def health(self, http: web.Request) -> web.Response:
        provider = self._provider
        return web.json_response(
            {
                "simulated": True,
                "openai_url": provider.openai_url,
                "anthropic_url": provider.anthropic_url,
                "requests": len(provider.requests.entries),
            }
        )

    async def faults(self, http: web.Request) -> web.Response:
        rules = [{"fault": fault.model_dump(mode="json"), "fired": fired} for fault, fired in self._provider.faults.fired()]
        return web.json_response(rules)

    async def add_faults(self, http: web.Request) -> web.Response:
        given = await _read(http, _FAULTS)
        faults = given if isinstance(given, list) else [given]
        for fault in faults:
            self._provider.add_fault(fault)
        return web.json_response({"added": len(faults)}, status=201)

    async def clear_faults(self, http: web.Request) -> web.Response:
        self._provider.clear_faults()
        return web.Response(status=204)

    async def limits(self, http: web.Request) -> web.Response:
        return web.json_response(self._provider.limiter.report())

    async def change_limits(self, http: web.Request) -> web.Response:
        try:
            after_s = _SECONDS.validate_python(http.query.get("after_s", "0"))
        except ValidationError as error:
            raise web.HTTPUnprocessableEntity(text="after_s must be a number of seconds") from error
        self._provider.change_limits(await _read(http, _LIMITS), after_s)
        return web.Response(status=204)

    async def outage(self, http: web.Request) -> web.Response:
        switch = self._provider.outages
        return web.json_response({"outage": switch.outage.model_dump() if switch.outage else None, "refused": switch.refused})

    async def begin_outage(self, http: web.Request) -> web.Response:
        outage = await _read(http, _OUTAGE)
        if outage.kind == "unreachable" and outage.for_s is None:
            raise web.HTTPUnprocessableEntity(text="for_s is needed: no request could end an outage in which nobody can connect")
        await self._provider.begin_outage(outage)
        return web.Response(status=204)

    async def end_outage(self, http: web.Request) -> web.Response:
        await self._provider.end_outage()
        return web.Response(status=204)

    async def change_keys(self, http: web.Request) -> web.Response:
        keys = await _read(http, _KEYS)
        self._provider.keys = None if keys is None else frozenset(keys)
        return web.Response(status=204)

    async def change_latency(self, http: web.Request) -> web.Response:
        self._provider.latency.update(await _read(http, _LATENCY))
        return web.Response(status=204)

    async def change_batches(self, http: web.Request) -> web.Response:
        self._provider.batches.takes_s = await _read(http, _SECONDS)
        return web.Response(status=204)

    async def batches(self, http: web.Request) -> web.Response:
        batches = self._provider.batches.all
        return web.json_response([{"id": b.batch_id, "requests": len(b.items), "ended": b.ended_at is not None} for b in batches])

    async def journal(self, http: web.Request) -> web.Response:
        try:
            after = int(http.query.get("after", "0"))
        except ValueError as error:
            raise web.HTTPUnprocessableEntity(text="after must be a whole number") from error
        return web.json_response([entry.as_json() for entry in self._provider.journal()[max(0, after) :]])
