"""`python -m examples.support.demo.warehouse_service PORT`: the warehouse's side, a server of its own that keeps a journal.

Like the shop's tables it does not look whether a key was used before: what is done twice shall be there to be seen.
"""

from __future__ import annotations

import sys
from typing import Any

from aiohttp import web

from devstack.ports import LOOPBACK

_JOURNAL = web.AppKey("journal", list[dict[str, Any]])


def application() -> web.Application:
    """The service, its journal empty."""
    app = web.Application()
    app[_JOURNAL] = []
    app.add_routes([web.post("/redirections", _redirect), web.get("/redirections", _find), web.get("/journal", _journal)])
    return app


async def _redirect(request: web.Request) -> web.Response:
    wanted = await request.json()
    request.app[_JOURNAL].append({"key": request.query["key"], "order_id": wanted["order_id"], "address": wanted["address"]})
    return web.json_response({})


async def _find(request: web.Request) -> web.Response:
    found = [entry for entry in request.app[_JOURNAL] if entry["key"] == request.query["key"]]
    return web.json_response(found, status=200 if found else 404)


async def _journal(request: web.Request) -> web.Response:
    return web.json_response(request.app[_JOURNAL])


if __name__ == "__main__":
    web.run_app(application(), host=LOOPBACK, port=int(sys.argv[1]), print=None)
