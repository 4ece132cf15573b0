"""The shop's tables, and how a shop from a file gets into them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import asyncpg

from .shop_data import Order, ShopData

SCHEMA = """
drop schema if exists shop cascade;
create schema shop;
create table shop.customers (
    user_id text primary key, first_name text not null, last_name text not null, email text not null,
    address json not null, payment_methods json not null
);
create index on shop.customers (lower(email));
create index on shop.customers (lower(last_name), lower(first_name));
create table shop.products (product_id text primary key, name text not null);
create table shop.variants (
    item_id text primary key, product_id text not null references shop.products, options json not null,
    available boolean not null, price_usd numeric not null
);
create index on shop.variants (product_id);
create table shop.orders (
    order_id text primary key, user_id text not null references shop.customers, placed integer not null, status text not null,
    address json not null, fulfillments json not null
);
create index on shop.orders (user_id);
create table shop.order_items (
    order_id text not null references shop.orders, line integer not null, item_id text not null, product_id text not null,
    name text not null, price_usd numeric not null, options json not null, primary key (order_id, line)
);
create table shop.payments (
    order_id text not null references shop.orders, line integer not null, kind text not null, amount_usd numeric not null,
    method text not null, primary key (order_id, line)
);
-- Columns are json, not jsonb, to keep the options in the order in which the shop wrote them.
-- Each refund that was made is a row, with the key it was made under. There is deliberately no unique constraint: it would
-- hide a refund that was made twice, and the demo's proof counts them. A real shop would have one, and so a second net.
create table shop.refunds (
    refund_id bigint generated always as identity primary key, order_id text not null references shop.orders,
    amount_usd numeric not null, method text not null, reason text not null,
    idempotency_key text not null, run_id text not null, made_at timestamptz not null default clock_timestamp()
);
-- Each change that was made, with its key; no unique constraint, for the same reason.
create table shop.changes (
    change_id bigint generated always as identity primary key, kind text not null, order_id text, user_id text,
    detail json not null, idempotency_key text not null, run_id text not null,
    made_at timestamptz not null default clock_timestamp()
);
create index on shop.changes (idempotency_key);
"""


async def create_shop(dsn: str, shop: ShopData) -> None:
    """Replace whatever shop is in the database by this one."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        await prepare(connection)
        async with connection.transaction():
            await connection.execute(SCHEMA)
            for table, rows in _tables(shop):
                await connection.copy_records_to_table(table, schema_name="shop", records=rows)
    finally:
        await connection.close()


async def prepare(connection: asyncpg.Connection) -> None:
    """Have JSON read and written as Python values; in the binary format, because COPY knows no other."""
    await connection.set_type_codec(
        "json",
        encoder=lambda value: json.dumps(value, ensure_ascii=False).encode(),
        decoder=json.loads,
        schema="pg_catalog",
        format="binary",
    )


def _tables(shop: ShopData) -> Iterator[tuple[str, list[tuple[Any, ...]]]]:
    """Each table's rows, a table after those that it refers to."""
    yield (
        "customers",
        [
            (user.user_id, user.name.first_name, user.name.last_name, user.email, user.address.model_dump(), user.payment_methods)
            for user in shop.users.values()
        ],
    )
    yield "products", [(product.product_id, product.name) for product in shop.products.values()]
    yield (
        "variants",
        [
            (variant.item_id, product.product_id, variant.options, variant.available, variant.price)
            for product in shop.products.values()
            for variant in product.variants.values()
        ],
    )
    yield (
        "orders",
        [
            (order.order_id, order.user_id, _placed(shop, order), order.status, order.address.model_dump(), _parcels(order))
            for order in shop.orders.values()
        ],
    )
    yield (
        "order_items",
        [
            (order.order_id, line, item.item_id, item.product_id, item.name, item.price, item.options)
            for order in shop.orders.values()
            for line, item in enumerate(order.items)
        ],
    )
    yield (
        "payments",
        [
            (order.order_id, line, payment.transaction_type, payment.amount, payment.payment_method_id)
            for order in shop.orders.values()
            for line, payment in enumerate(order.payment_history)
        ],
    )


def _placed(shop: ShopData, order: Order) -> int:
    """Where the order stands among its customer's: files hold no dates, only this sequence."""
    own = shop.users[order.user_id].orders
    return own.index(order.order_id) if order.order_id in own else len(own)


def _parcels(order: Order) -> list[dict[str, Any]]:
    return [parcel.model_dump(mode="json") for parcel in order.fulfillments]
