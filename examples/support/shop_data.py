"""The files behind the shop and its mail: a shop as JSON, tickets as JSON lines. What is wrong in them is told with its place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from holdfast import InvalidInputError

Model = TypeVar("Model", bound=BaseModel)


class Row(BaseModel):
    """A part of the files. Fields that nothing here reads are let pass."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Ticket(Row):
    """What a customer wants, and what they can say of themselves."""

    id: str = Field(min_length=1)
    reason_for_call: str = Field(min_length=1)
    known_info: str = ""
    unknown_info: str | None = None

    def as_message(self) -> str:
        """The ticket as the agent reads it."""
        lines = [f"Reason: {self.reason_for_call}", f"Known: {self.known_info or 'nothing'}"]
        if self.unknown_info and self.unknown_info.strip(" ."):
            lines.append(f"Not known: {self.unknown_info}")
        return "\n".join(lines)


class Address(Row):
    """Where a customer lives, or where an order goes."""

    address1: str
    address2: str = ""
    city: str
    country: str = ""
    state: str = ""
    zip: str


class Variant(Row):
    """One version of a product that can be bought."""

    item_id: str
    options: dict[str, str]
    available: bool
    price: Decimal = Field(ge=0)


class Product(Row):
    """A product with its variants by item id."""

    product_id: str
    name: str
    variants: dict[str, Variant]


class PersonName(Row):
    """A customer's name."""

    first_name: str
    last_name: str


class Customer(Row):
    """A customer with the payment methods by id."""

    user_id: str
    name: PersonName
    email: str
    address: Address
    payment_methods: dict[str, dict[str, Any]]
    orders: tuple[str, ...] = ()


class Item(Row):
    """One piece in an order, at the price that was paid."""

    item_id: str
    product_id: str
    name: str
    price: Decimal = Field(ge=0)
    options: dict[str, str]


class Fulfillment(Row):
    """A parcel."""

    tracking_id: tuple[str, ...]
    item_ids: tuple[str, ...] = ()


class Payment(Row):
    """Money that moved for an order before the shop was loaded."""

    transaction_type: str
    amount: Decimal
    payment_method_id: str


class Order(Row):
    """An order as it was placed."""

    order_id: str
    user_id: str
    status: str
    address: Address
    items: tuple[Item, ...]
    fulfillments: tuple[Fulfillment, ...] = ()
    payment_history: tuple[Payment, ...]


class ShopData(Row):
    """A whole shop."""

    products: dict[str, Product]
    users: dict[str, Customer]
    orders: dict[str, Order]


def load_shop(path: Path) -> ShopData:
    """Read a shop from a JSON file.

    Raises:
        InvalidInputError: the file is not readable, not UTF-8, not JSON, lacks a field, or names a customer it does not hold.
    """
    text = _read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg}); mend that place.") from error
    shop = _validate(ShopData, data, str(path))
    for order in shop.orders.values():
        if order.user_id not in shop.users:
            raise InvalidInputError(
                f"{path}: orders.{order.order_id}.user_id: no customer {order.user_id!r} under `users`; "
                "add the customer or leave the order out."
            )
    return shop


def load_tickets(path: Path) -> tuple[Ticket, ...]:
    """Read tickets from a file with one JSON object a line; empty lines are let pass.

    Raises:
        InvalidInputError: the file is not readable or not UTF-8, holds no ticket or an id twice, or a line lacks a field.
    """
    tickets = []
    # Not splitlines(): JSON text may hold U+2028 and its like unescaped, which are no line ends here.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(
                f"{path}, line {number}, column {error.colno}: not JSON ({error.msg}); write one JSON object a line."
            ) from error
        tickets.append(_validate(Ticket, data, f"{path}, line {number}"))
    if not tickets:
        raise InvalidInputError(f"{path} holds no tickets; write one JSON object a line, with `id` and `reason_for_call`.")
    (most_used, times), *_ = Counter(ticket.id for ticket in tickets).most_common(1)
    if times > 1:
        raise InvalidInputError(f"{path}: the id {most_used!r} is used {times} times; give every ticket its own.")
    return tuple(tickets)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidInputError(
            f"{path}, line {line}: byte {error.start} is not UTF-8 ({error.reason}); save the file with the encoding UTF-8."
        ) from error


def _validate(model: type[Model], data: object, place: str) -> Model:
    if not isinstance(data, Mapping):
        raise InvalidInputError(f"{place}: a JSON object is needed, this is {type(data).__name__}; the README shows the format.")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        remedy = "add it" if first["type"] == "missing" else "correct it"
        raise InvalidInputError(f"{place}: {field}: {first['msg'].lower()}; {remedy}, the README shows the format.") from error
