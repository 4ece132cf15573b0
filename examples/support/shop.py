"""The shop in PostgreSQL, in a schema of its own: what the tools look up, and a row for everything they change."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg

from holdfast import ToolError

from .shop_tables import prepare


@dataclass(frozen=True, slots=True)
class Origin:
    """Who makes a change: the tool call's idempotency key, and its run."""

    idempotency_key: str
    run_id: str


class Shop:
    """Look up and change what is in the shop. Everything that comes back is JSON, money as text with two decimals."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, dsn: str, *, max_size: int = 4) -> AsyncIterator[Shop]:
        """Connections to the shop for as long as the context lasts."""
        async with asyncpg.create_pool(dsn, min_size=1, max_size=max_size, command_timeout=15, init=prepare) as pool:
            yield cls(pool)

    async def find_customers(
        self, *, user_id: str = "", email: str = "", first_name: str = "", last_name: str = "", zip_code: str = ""
    ) -> list[dict[str, Any]]:
        """The customers that fit the account id, or else the e-mail, or else name and zip code."""
        rows = await self._pool.fetch(
            "select * from shop.customers where case when $1 <> '' then user_id = $1 when $2 <> '' then lower(email) = lower($2) "
            "else lower(first_name) = lower($3) and lower(last_name) = lower($4) and address->>'zip' = $5 end order by user_id",
            *(user_id, email, first_name, last_name, zip_code),
        )
        return [
            {
                "customer_id": row["user_id"],
                "name": f"{row['first_name']} {row['last_name']}",
                "address": row["address"],
                "payment_methods": row["payment_methods"],
            }
            for row in rows
        ]

    async def list_orders(self, customer_id: str) -> list[dict[str, Any]]:
        """A customer's orders, the newest last, in short."""
        rows = await self._pool.fetch(
            "select o.order_id, o.status, array_agg(i.name order by i.line) as items from shop.orders o "
            "join shop.order_items i using (order_id) where o.user_id = $1 group by o.order_id order by o.placed",
            customer_id,
        )
        return [{"order_id": row["order_id"], "status": row["status"], "items": row["items"]} for row in rows]

    async def find_order(self, order_id: str) -> dict[str, Any]:
        """An order with its items, parcels and payments.

        Raises:
            ToolError: there is no such order.
        """
        async with self._pool.acquire() as connection:
            return await _order(connection, order_id)

    async def list_products(self) -> list[dict[str, Any]]:
        """All products, in short."""
        return [dict(row) for row in await self._pool.fetch("select product_id, name from shop.products order by name")]

    async def get_product(self, product_id: str) -> dict[str, Any]:
        """A product with its variants.

        Raises:
            ToolError: there is no such product.
        """
        name = await self._pool.fetchval("select name from shop.products where product_id = $1", product_id)
        if name is None:
            raise ToolError(f"no product has the id {product_id}; list_products gives the ids")
        rows = await self._pool.fetch("select * from shop.variants where product_id = $1 order by item_id", product_id)
        variants = [{key: row[key] for key in ("item_id", "options", "available")} | {"price_usd": money(row["price_usd"])} for row in rows]
        return {"product_id": product_id, "name": name, "variants": variants}

    async def cancel(self, order_id: str, customer_id: str, reason: str, origin: Origin) -> dict[str, Any]:
        """Cancel a pending order and pay it back.

        Raises:
            ToolError: the order is not this customer's, or no longer pending.
        """
        async with self._changing(order_id, customer_id, ("pending",), "be cancelled") as (connection, order):
            await connection.execute("update shop.orders set status = 'cancelled' where order_id = $1", order_id)
            paid_back = await _pay_back(connection, order, Decimal(order["total_usd"]), reason, origin)
            result = {"order_id": order_id, "status": "cancelled"} | paid_back
            await _note(connection, "cancelled", order, result, origin)
        return result

    async def refund(self, order_id: str, customer_id: str, amount_usd: Decimal, reason: str, origin: Origin) -> dict[str, Any]:
        """Pay back a part or all of a delivered order.

        What was paid back before is not looked at, so that a refund done twice is there to be seen.

        Raises:
            ToolError: the order is not this customer's or not delivered, or the amount is no part of what was paid.
        """
        async with self._changing(order_id, customer_id, ("delivered",), "be refunded") as (connection, order):
            if not 0 < amount_usd <= Decimal(order["total_usd"]):
                raise ToolError(f"{money(amount_usd)} USD cannot be refunded: {order['total_usd']} USD were paid for {order_id}")
            return await _pay_back(connection, order, amount_usd, reason, origin)

    async def return_items(self, order_id: str, customer_id: str, item_ids: Sequence[str], reason: str, origin: Origin) -> dict[str, Any]:
        """Register that items of a delivered order come back; with the same key again nothing more is registered.

        Raises:
            ToolError: the order is not this customer's or not delivered, or does not hold the items.
        """
        async with self._changing(order_id, customer_id, ("delivered",), "be returned") as (connection, order):
            items = _items(order, item_ids)
            result = {
                "order_id": order_id,
                "returned": [item["name"] for item in items],
                "refund_on_arrival_usd": money(sum((Decimal(item["price_usd"]) for item in items), Decimal(0))),
            }
            if not await _is_noted(connection, "returned", origin):
                await _note(connection, "returned", order, result, origin)
        return result

    async def exchange(
        self, order_id: str, customer_id: str, item_ids: Sequence[str], new_item_ids: Sequence[str], origin: Origin
    ) -> dict[str, Any]:
        """Swap items of a pending or delivered order for other variants of the same products.

        Raises:
            ToolError: the order is not this customer's or cannot be changed, or an item does not fit or is not available.
        """
        async with self._changing(order_id, customer_id, ("pending", "delivered"), "be changed") as (connection, order):
            if len(item_ids) != len(new_item_ids):
                raise ToolError("item_ids and new_item_ids must be pairs")
            difference = Decimal(0)
            swaps = []
            for item, new_id in zip(_items(order, item_ids), new_item_ids, strict=True):
                new = await _variant(connection, new_id, item)
                difference += new["price_usd"] - Decimal(item["price_usd"])
                swaps.append({"name": item["name"], "from": item["options"], "to": new["options"]})
                if order["status"] == "pending":
                    await connection.execute(
                        "update shop.order_items set item_id = $3, price_usd = $4, options = $5 where order_id = $1 and line = $2",
                        *(order_id, item["line"], new_id, new["price_usd"], new["options"]),
                    )
            result = {"order_id": order_id, "exchanged": swaps, "difference_usd": money(difference)}
            await _note(connection, "exchanged", order, result, origin)
        return result

    async def ensure_pending(self, order_id: str, customer_id: str) -> None:
        """Raises ToolError unless the order is this customer's, and pending."""
        async with self._changing(order_id, customer_id, ("pending",), "go elsewhere"):
            pass

    async def change_address(self, customer_id: str, address: dict[str, str], order_id: str | None, origin: Origin) -> dict[str, Any]:
        """Set where a pending order goes, or without an order where the customer lives; twice is the same as once.

        Raises:
            ToolError: the order is not this customer's or no longer pending, or there is no such customer.
        """
        if order_id is None:
            async with self._pool.acquire() as connection, connection.transaction():
                done = await connection.execute("update shop.customers set address = $2 where user_id = $1", customer_id, address)
                if done == "UPDATE 0":
                    raise ToolError(f"no customer has the id {customer_id}")
                if not await _is_noted(connection, "moved", origin):
                    await _note(connection, "moved", {"customer_id": customer_id}, {"address": address}, origin)
            return {"customer_id": customer_id, "address": address}
        async with self._changing(order_id, customer_id, ("pending",), "go elsewhere") as (connection, order):
            await connection.execute("update shop.orders set address = $2 where order_id = $1", order_id, address)
            if not await _is_noted(connection, "readdressed", origin):
                await _note(connection, "readdressed", order, {"address": address}, origin)
        return {"order_id": order_id, "address": address}

    async def result_of(self, kind: str, origin: Origin) -> dict[str, Any] | None:
        """What was done under a key, if anything was: the answer to whoever lost it."""
        key = origin.idempotency_key
        if kind == "refunded":
            refund = await self._pool.fetchrow("select * from shop.refunds where idempotency_key = $1", key)
            return None if refund is None else _refunded(refund["order_id"], refund["amount_usd"], refund["method"])
        noted = await self._pool.fetchrow("select * from shop.changes where kind = $1 and idempotency_key = $2", kind, key)
        if noted is None:
            return None
        return {"case": noted["change_id"]} if kind == "escalated" else dict(noted["detail"])

    async def escalate(self, summary: str, customer_id: str | None, origin: Origin) -> dict[str, Any]:
        """Put a case on the desk of a person."""
        async with self._pool.acquire() as connection:
            return {"case": await _note(connection, "escalated", {"customer_id": customer_id}, {"summary": summary}, origin)}

    @contextlib.asynccontextmanager
    async def _changing(
        self, order_id: str, customer_id: str, statuses: Sequence[str], verb: str
    ) -> AsyncIterator[tuple[Any, dict[str, Any]]]:
        """The order, locked, once it is sure that this customer may change it."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("select 1 from shop.orders where order_id = $1 for update", order_id)
            order = await _order(connection, order_id)
            if order["customer_id"] != customer_id:
                raise ToolError(f"{order_id} is not an order of {customer_id}")
            if order["status"] not in statuses:
                raise ToolError(f"{order_id} is {order['status']}; only a {' or '.join(statuses)} order can {verb}")
            yield connection, order


def money(amount_usd: Decimal) -> str:
    """An amount as text with two decimals."""
    return f"{amount_usd:.2f}"


async def _order(connection: Any, order_id: str) -> dict[str, Any]:
    found = await connection.fetchrow("select * from shop.orders where order_id = $1", order_id)
    if found is None:
        raise ToolError(f"no order has the id {order_id}")
    items = await connection.fetch("select * from shop.order_items where order_id = $1 order by line", order_id)
    payments = await connection.fetch(
        "select kind, amount_usd, method from shop.payments where order_id = $1 union all "
        "select 'refund', amount_usd, method from shop.refunds where order_id = $1",
        order_id,
    )
    return {
        "order_id": order_id,
        "customer_id": found["user_id"],
        "status": found["status"],
        "address": found["address"],
        "tracking": [number for parcel in found["fulfillments"] for number in parcel["tracking_id"]],
        "items": [
            {key: row[key] for key in ("line", "item_id", "product_id", "name", "options")} | {"price_usd": money(row["price_usd"])}
            for row in items
        ],
        "total_usd": money(sum((row["price_usd"] for row in items), Decimal(0))),
        "payments": [dict(row) | {"amount_usd": money(row["amount_usd"])} for row in payments],
    }


def _items(order: dict[str, Any], item_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The order's lines for these ids, each line once."""
    if not item_ids:
        raise ToolError("no items were named")
    missing = Counter(item_ids) - Counter(item["item_id"] for item in order["items"])
    if missing:
        raise ToolError(f"{order['order_id']} does not hold {', '.join(missing.elements())}")
    free = list(order["items"])
    chosen = []
    for item_id in item_ids:
        item = next(item for item in free if item["item_id"] == item_id)
        free.remove(item)
        chosen.append(item)
    return chosen


async def _variant(connection: Any, item_id: str, instead_of: dict[str, Any]) -> Any:
    new = await connection.fetchrow("select * from shop.variants where item_id = $1", item_id)
    if new is None or new["product_id"] != instead_of["product_id"]:
        raise ToolError(f"{item_id} is no variant of {instead_of['name']}")
    if not new["available"]:
        raise ToolError(f"{item_id} is not available")
    return new


async def _pay_back(connection: Any, order: dict[str, Any], amount_usd: Decimal, reason: str, origin: Origin) -> dict[str, Any]:
    method = next((payment["method"] for payment in order["payments"] if payment["kind"] == "payment"), "unknown")
    await connection.execute(
        "insert into shop.refunds (order_id, amount_usd, method, reason, idempotency_key, run_id) values ($1, $2, $3, $4, $5, $6)",
        *(order["order_id"], amount_usd, method, reason, origin.idempotency_key, origin.run_id),
    )
    return _refunded(order["order_id"], amount_usd, method)


def _refunded(order_id: str, amount_usd: Decimal, method: str) -> dict[str, Any]:
    return {"order_id": order_id, "refunded_usd": money(amount_usd), "to": method}


async def _is_noted(connection: Any, kind: str, origin: Origin) -> bool:
    sql = "select exists (select 1 from shop.changes where kind = $1 and idempotency_key = $2)"
    return bool(await connection.fetchval(sql, kind, origin.idempotency_key))


async def _note(connection: Any, kind: str, subject: dict[str, Any], detail: dict[str, Any], origin: Origin) -> int:
    number: int = await connection.fetchval(
        "insert into shop.changes (kind, order_id, user_id, detail, idempotency_key, run_id) "
        "values ($1, $2, $3, $4, $5, $6) returning change_id",
        *(kind, subject.get("order_id"), subject.get("customer_id"), detail, origin.idempotency_key, origin.run_id),
    )
    return number
