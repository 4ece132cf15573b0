"""What the agents can do in the shop. Names, docstrings and annotations are what the model is told."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from decimal import Decimal
from typing import Any

from holdfast import Effect, Provided, ToolContext, ToolError, provide, tool

from .shop import Origin, Shop
from .warehouse import Warehouse


@provide
async def shop() -> AsyncIterator[Shop]:
    """The shop's tables, in the database that SHOP_DATABASE_URL names, else in Holdfast's own."""
    dsn = os.environ.get("SHOP_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not dsn:
        raise ToolError("SHOP_DATABASE_URL is not set: give it the address of the shop's PostgreSQL.")
    async with Shop.open(dsn) as opened:
        yield opened


@provide
async def warehouse() -> AsyncIterator[Warehouse]:
    """The warehouse that WAREHOUSE_URL names; without it the shop packs its orders itself."""
    async with Warehouse.open(os.environ.get("WAREHOUSE_URL", "")) as opened:
        yield opened


def _origin(context: ToolContext) -> Origin:
    return Origin(context.idempotency_key, context.run_id)


def was(kind: str) -> Callable[..., Awaitable[dict[str, Any] | None]]:
    """What is asked when a worker died in the middle of a `once` tool: the shop knows what it did under that key."""

    async def check(context: ToolContext, shop: Provided[Shop]) -> dict[str, Any] | None:
        return await shop.result_of(kind, _origin(context))

    return check


async def was_redirected(
    order_id: str,
    customer_id: str,
    address1: str,
    city: str,
    zip_code: str,
    address2: str,
    state: str,
    country: str,
    context: ToolContext,
    shop: Provided[Shop],
    warehouse: Provided[Warehouse],
) -> dict[str, Any] | None:
    """What became of an attempt to redirect an order: the warehouse is asked, which cannot answer while it is down."""
    if not await warehouse.was_told(context.idempotency_key):
        noted = await shop.result_of("readdressed", _origin(context))
        return None if noted is None else {"order_id": order_id, **noted}
    # The worker may have died between the warehouse and the shop's own books, which know this key only once.
    address = _address(address1, address2, city, country, state, zip_code)
    return await shop.change_address(customer_id, address, order_id, _origin(context))


@tool
async def find_customer(
    shop: Provided[Shop],
    customer_id: str = "",
    email: str = "",
    first_name: str = "",
    last_name: str = "",
    zip_code: str = "",
) -> dict[str, Any]:
    """Find a customer by account id, or by e-mail, or by first name, last name and zip code together."""
    if not (customer_id or email or (first_name and last_name and zip_code)):
        raise ToolError("give the account id, or the e-mail, or first name, last name and zip code")
    found = await shop.find_customers(user_id=customer_id, email=email, first_name=first_name, last_name=last_name, zip_code=zip_code)
    if len(found) != 1:
        raise ToolError(f"{len(found)} customers fit; ask for another detail" if found else "no customer fits these details")
    return found[0]


@tool
async def list_orders(customer_id: str, shop: Provided[Shop]) -> list[dict[str, Any]]:
    """List a customer's orders in short, the newest last."""
    return await shop.list_orders(customer_id)


@tool
async def find_order(order_id: str, shop: Provided[Shop]) -> dict[str, Any]:
    """Show an order with items, status, address, tracking and payments. Order ids look like #W1234567."""
    return await shop.find_order(order_id)


@tool
async def list_products(shop: Provided[Shop]) -> list[dict[str, Any]]:
    """List all products with their ids."""
    return await shop.list_products()


@tool
async def get_product(product_id: str, shop: Provided[Shop]) -> dict[str, Any]:
    """Show a product with all its variants, their prices and whether they are available."""
    return await shop.get_product(product_id)


@tool(effect=Effect.ONCE, key="order_id", check=was("cancelled"))
async def cancel_order(order_id: str, customer_id: str, reason: str, context: ToolContext, shop: Provided[Shop]) -> dict[str, Any]:
    """Cancel a whole pending order and pay it back. Single items cannot be cancelled."""
    return await shop.cancel(order_id, customer_id, reason, _origin(context))


@tool(effect=Effect.ONCE, key="order_id", check=was("refunded"))
async def refund(
    order_id: str, customer_id: str, amount_usd: Decimal, reason: str, context: ToolContext, shop: Provided[Shop]
) -> dict[str, Any]:
    """Pay back a delivered order, or the broken or missing part of it. An order is refunded once."""
    return await shop.refund(order_id, customer_id, amount_usd, reason, _origin(context))


@tool(effect=Effect.IDEMPOTENT)
async def return_items(
    order_id: str, customer_id: str, item_ids: list[str], reason: str, context: ToolContext, shop: Provided[Shop]
) -> dict[str, Any]:
    """Register that items of a delivered order come back; they are paid back on arrival."""
    return await shop.return_items(order_id, customer_id, item_ids, reason, _origin(context))


@tool(effect=Effect.ONCE, check=was("exchanged"))
async def exchange_items(
    order_id: str, customer_id: str, item_ids: list[str], new_item_ids: list[str], context: ToolContext, shop: Provided[Shop]
) -> dict[str, Any]:
    """Exchange items of a pending or delivered order for available variants of the same products.

    Args:
        item_ids: the items in the order.
        new_item_ids: for each of them the variant to have instead, in the same order.
    """
    return await shop.exchange(order_id, customer_id, item_ids, new_item_ids, _origin(context))


@tool(effect=Effect.ONCE, check=was_redirected)
async def redirect_order(
    order_id: str,
    customer_id: str,
    address1: str,
    city: str,
    zip_code: str,
    context: ToolContext,
    shop: Provided[Shop],
    warehouse: Provided[Warehouse],
    address2: str = "",
    state: str = "",
    country: str = "",
) -> dict[str, Any]:
    """Send a pending order elsewhere. The warehouse that packs it is told first."""
    address = _address(address1, address2, city, country, state, zip_code)
    await shop.ensure_pending(order_id, customer_id)
    await warehouse.redirect(order_id, address, context.idempotency_key)
    return await shop.change_address(customer_id, address, order_id, _origin(context))


@tool(effect=Effect.IDEMPOTENT)
async def change_address(
    customer_id: str,
    address1: str,
    city: str,
    zip_code: str,
    context: ToolContext,
    shop: Provided[Shop],
    address2: str = "",
    state: str = "",
    country: str = "",
) -> dict[str, Any]:
    """Change the address of the account."""
    return await shop.change_address(customer_id, _address(address1, address2, city, country, state, zip_code), None, _origin(context))


def _address(address1: str, address2: str, city: str, country: str, state: str, zip_code: str) -> dict[str, str]:
    return {"address1": address1, "address2": address2, "city": city, "country": country, "state": state, "zip": zip_code}


@tool(effect=Effect.ONCE, check=was("escalated"))
async def escalate_to_person(summary: str, context: ToolContext, shop: Provided[Shop], customer_id: str | None = None) -> dict[str, Any]:
    """Put the case on the desk of a person. Say what was done and what is open."""
    return await shop.escalate(summary, customer_id, _origin(context))
