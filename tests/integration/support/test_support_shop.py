"""The shop keeps its rules, and shows what was done twice."""

from __future__ import annotations

from decimal import Decimal

import asyncpg
import pytest

from examples.support.shop import Origin, Shop
from holdfast import ToolError

RAFAEL = "rafael_quintero_8841"
INES = "ines_moreau_2107"
ADAEZE = "adaeze_okafor_3390"


async def _count(dsn: str, table: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval(f"select count(*) from shop.{table}"))  # noqa: S608  our own names
    finally:
        await connection.close()


async def test_an_order_comes_back_as_it_was_loaded(shop: Shop):
    order = await shop.find_order("#W3004108")
    assert (order["customer_id"], order["status"], order["total_usd"]) == (RAFAEL, "pending", "122.90")
    assert [item["name"] for item in order["items"]] == ["Hammock", "Trail Lantern"]
    assert list(order["items"][0]["options"]) == ["color", "size"]


async def test_a_cancelled_order_is_paid_back_and_cannot_be_cancelled_again(shop: Shop, shop_dsn: str):
    done = await shop.cancel("#W3004108", RAFAEL, "by mistake", Origin("key-1", "run-1"))
    assert (done["refunded_usd"], done["to"]) == ("122.90", "paypal_7300104")
    assert (await shop.find_order("#W3004108"))["status"] == "cancelled"
    with pytest.raises(ToolError, match="is cancelled; only a pending order"):
        await shop.cancel("#W3004108", RAFAEL, "by mistake", Origin("key-1", "run-1"))
    assert await _count(shop_dsn, "refunds") == 1


async def test_nobody_changes_somebody_elses_order(shop: Shop, shop_dsn: str):
    with pytest.raises(ToolError, match="is not an order of"):
        await shop.cancel("#W3004108", INES, "for a friend", Origin("key", "run"))
    with pytest.raises(ToolError, match="is not an order of"):
        await shop.refund("#W3004101", RAFAEL, Decimal(1), "why not", Origin("key", "run"))
    assert await _count(shop_dsn, "refunds") == 0


async def test_a_refund_done_twice_shows_as_two_rows(shop: Shop, shop_dsn: str):
    for _ in range(2):
        await shop.refund("#W3004101", INES, Decimal("54.50"), "cracked", Origin("same-key", "run"))
    assert await _count(shop_dsn, "refunds") == 2


async def test_the_shop_knows_what_was_done_under_a_key_and_what_was_not(shop: Shop):
    assert await shop.result_of("refunded", Origin("key-1", "run")) is None
    refunded = await shop.refund("#W3004101", INES, Decimal("54.50"), "cracked", Origin("key-1", "run"))
    cancelled = await shop.cancel("#W3004108", RAFAEL, "by mistake", Origin("key-2", "run"))
    exchanged = await shop.exchange("#W3004105", ADAEZE, ["5100140002"], ["5100140006"], Origin("key-3", "run"))
    escalated = await shop.escalate("please look", INES, Origin("key-4", "run"))
    done = {"refunded": refunded, "cancelled": cancelled, "exchanged": exchanged, "escalated": escalated}
    for number, (kind, result) in enumerate(done.items(), start=1):
        assert await shop.result_of(kind, Origin(f"key-{number}", "another run")) == result
        assert await shop.result_of(kind, Origin("another key", "run")) is None


@pytest.mark.parametrize("amount", ["0", "-1", "66.91"])
async def test_a_refund_is_a_part_of_what_was_paid(shop: Shop, amount: str):
    with pytest.raises(ToolError, match=r"66\.90 USD were paid"):
        await shop.refund("#W3004101", INES, Decimal(amount), "cracked", Origin("key", "run"))


async def test_a_return_with_the_same_key_is_registered_once(shop: Shop, shop_dsn: str):
    for _ in range(2):
        done = await shop.return_items("#W3004106", ADAEZE, ["5100120005", "5100120005"], "too many", Origin("same-key", "run"))
        assert done["refund_on_arrival_usd"] == "31.20"
    assert await _count(shop_dsn, "changes") == 1


async def test_a_line_is_returned_only_as_often_as_it_was_ordered(shop: Shop):
    with pytest.raises(ToolError, match="does not hold 5100120005"):
        await shop.return_items("#W3004106", ADAEZE, ["5100120005"] * 3, "too many", Origin("key", "run"))


async def test_a_pending_order_is_exchanged_in_place_and_a_delivered_one_is_noted(shop: Shop):
    done = await shop.exchange("#W3004108", RAFAEL, ["5100110001"], ["5100110003"], Origin("key-1", "run"))
    assert done["difference_usd"] == "4.30"
    assert (await shop.find_order("#W3004108"))["items"][1]["item_id"] == "5100110003"
    await shop.exchange("#W3004105", ADAEZE, ["5100140002"], ["5100140006"], Origin("key-2", "run"))
    assert (await shop.find_order("#W3004105"))["items"][0]["item_id"] == "5100140002"


@pytest.mark.parametrize(("new", "told"), [("5100110004", "is not available"), ("5100120001", "is no variant of"), ("x", "is no variant")])
async def test_an_exchange_is_for_an_available_variant_of_the_same_product(shop: Shop, new: str, told: str):
    with pytest.raises(ToolError, match=told):
        await shop.exchange("#W3004108", RAFAEL, ["5100110001"], [new], Origin("key", "run"))


async def test_addresses_change_once_per_key_for_orders_and_accounts(shop: Shop, shop_dsn: str):
    address = {"address1": "1 New Street", "city": "Lyon", "zip": "69002"}
    for _ in range(2):
        await shop.change_address(INES, address, "#W3004102", Origin("key-1", "run"))
        await shop.change_address(INES, address, None, Origin("key-2", "run"))
    assert (await shop.find_order("#W3004102"))["address"] == address
    assert (await shop.find_customers(user_id=INES))[0]["address"] == address
    assert await _count(shop_dsn, "changes") == 2
    with pytest.raises(ToolError, match="no customer"):
        await shop.change_address("nobody", address, None, Origin("key-3", "run"))


async def test_what_is_not_there_is_said_so(shop: Shop):
    assert await shop.find_customers(email="nobody@example.com") == []
    with pytest.raises(ToolError, match="no order has the id"):
        await shop.find_order("#W0000000")
    with pytest.raises(ToolError, match="no product has the id"):
        await shop.get_product("0")
