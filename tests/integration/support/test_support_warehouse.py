"""The tool that needs the warehouse: against the real service, up and down, and asked what became of an attempt."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from devstack.ports import LOOPBACK, free_port
from examples.support.demo.warehouse_service import application
from examples.support.shop import Shop
from examples.support.tools import redirect_order, was_redirected
from examples.support.warehouse import Warehouse
from holdfast import ToolContext, ToolError

ORDER: dict[str, Any] = {"order_id": "#W3004118", "customer_id": "kenji_watase_9016"}
ADDRESS: dict[str, str] = {"address1": "512 Cedar Row", "city": "Eugene", "zip_code": "97401"}
PARTS = {"address2": "", "state": "OR", "country": ""}
CONTEXT = ToolContext(idempotency_key="run:11", run_id="run")


@contextlib.asynccontextmanager
async def _service(port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(application())
    await runner.setup()
    await web.TCPSite(runner, LOOPBACK, port).start()
    try:
        yield f"http://{LOOPBACK}:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def service() -> AsyncIterator[str]:
    async with _service(free_port()) as url:
        yield url


async def _journal(url: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/journal") as answer:
        entries: list[dict[str, Any]] = await answer.json()
        return entries


async def _asked(shop: Shop, warehouse: Warehouse) -> dict[str, Any] | None:
    return await was_redirected(**ORDER, **ADDRESS, **PARTS, context=CONTEXT, shop=shop, warehouse=warehouse)


async def test_an_order_goes_elsewhere_in_the_warehouse_and_in_the_shop(shop: Shop, service: str) -> None:
    async with Warehouse.open(service) as warehouse:
        done = await redirect_order(**ORDER, **ADDRESS, **PARTS, context=CONTEXT, shop=shop, warehouse=warehouse)
        assert await _asked(shop, warehouse) == done
    assert [(entry["key"], entry["order_id"]) for entry in await _journal(service)] == [("run:11", "#W3004118")]
    assert (await shop.find_order("#W3004118"))["address"]["address1"] == "512 Cedar Row"


async def test_a_warehouse_that_is_down_breaks_the_tool_and_nothing_is_changed(shop: Shop) -> None:
    before = (await shop.find_order("#W3004118"))["address"]
    async with Warehouse.open(f"http://{LOOPBACK}:{free_port()}") as warehouse:
        with pytest.raises(aiohttp.ClientConnectionError):
            await redirect_order(**ORDER, **ADDRESS, **PARTS, context=CONTEXT, shop=shop, warehouse=warehouse)
        with pytest.raises(aiohttp.ClientConnectionError):
            await _asked(shop, warehouse)
    assert (await shop.find_order("#W3004118"))["address"] == before


async def test_what_only_the_warehouse_knows_is_brought_into_the_shops_books(shop: Shop, service: str) -> None:
    async with Warehouse.open(service) as warehouse:
        assert await _asked(shop, warehouse) is None
        await warehouse.redirect("#W3004118", {"address1": "512 Cedar Row"}, CONTEXT.idempotency_key)
        found = await _asked(shop, warehouse)
    assert found is not None
    assert found["order_id"] == "#W3004118"
    assert (await shop.find_order("#W3004118"))["address"]["city"] == "Eugene"


async def test_the_warehouse_hears_nothing_of_an_order_that_may_not_be_redirected(shop: Shop, service: str) -> None:
    async with Warehouse.open(service) as warehouse:
        with pytest.raises(ToolError, match="is not an order of"):
            await redirect_order("#W3004108", "kenji_watase_9016", **ADDRESS, **PARTS, context=CONTEXT, shop=shop, warehouse=warehouse)
    assert await _journal(service) == []


async def test_without_a_warehouse_the_shops_own_books_are_asked(shop: Shop) -> None:
    async with Warehouse.open("") as warehouse:
        assert await _asked(shop, warehouse) is None
        await redirect_order(**ORDER, **ADDRESS, **PARTS, context=CONTEXT, shop=shop, warehouse=warehouse)
        found = await _asked(shop, warehouse)
    assert found is not None
    assert found["address"]["city"] == "Eugene"
