"""The last words to the customer: what was done, what was found out, what a person takes over. All from the tools' results."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from .conversation import Call, Conversation
from .matching import mentions
from .planning import Plan
from .reading import Intent, Reading, Wish

EFFECTS = frozenset({"cancel_order", "redirect_order", "change_address", "refund", "return_items", "exchange_items"})

_MOST_ORDERS = 3
_TOTAL = re.compile(r"\btotal (?:amount|refund)\b|\bget back\b", re.IGNORECASE)


def farewell(talk: Conversation, reading: Reading, left: Plan) -> str:
    """The whole answer."""
    name = f" {talk.customer['name'].split()[0]}" if talk.customer else ""
    lines = [f"Hello{name},"]
    lines += [_done(call) for call in talk.calls if call.tool in EFFECTS]
    lines += [call.text for call in talk.made("products")]
    lines += _found_out(talk, reading)
    if escalated := talk.made("escalate_to_person"):
        case = escalated[0].value or {}
        lines.append(f"A colleague takes care of the rest, as case {case.get('case', '(not yet numbered)')}:")
        lines += [f"- {note}" for note in left.open]
    if len(lines) == 1:
        lines.append("There was nothing to do.")
    return "\n".join(lines)


def _done(call: Call) -> str:
    value = call.value
    if call.refusal:
        return f"A colleague has looked at your {call.tool.replace('_', ' ')}, and said no: {call.refusal}."
    if not isinstance(value, dict):
        return f"This did not work: {call.tool}: {call.text}"
    order = value.get("order_id", "your account")
    if call.before:
        return f"What you ask for {order} was done before."
    if call.tool == "cancel_order":
        return f"{order} is cancelled; {value['refunded_usd']} USD go back to {value['to']}."
    if call.tool == "refund":
        return f"{value['refunded_usd']} USD of {order} are refunded to {value['to']}."
    if call.tool == "return_items":
        return (
            f"Of {order} please send back: {', '.join(value['returned'])}. You get {value['refund_on_arrival_usd']} USD when they arrive."
        )
    if call.tool == "exchange_items":
        swaps = "; ".join(f"{swap['name']} for {', '.join(swap['to'].values())}" for swap in value["exchanged"])
        return f"In {order} we exchange: {swaps}. The difference is {value['difference_usd']} USD."
    address = value["address"]
    return f"The address of {order} is now {address['address1']}, {address['city']} {address['zip']}."


def _found_out(talk: Conversation, reading: Reading) -> Iterator[str]:
    asked = [wish for wish in reading.wishes if wish.intent is Intent.STATUS]
    for order in _orders_asked_about(talk, asked):
        yield _status(order)
    if any(_TOTAL.search(wish.text) for wish in asked):
        results = [call.value for call in talk.calls if call.tool in EFFECTS and isinstance(call.value, dict)]
        yield f"In total you get back {sum(map(_given_back, results), Decimal(0)):.2f} USD."
    if any("balance" in wish.text for wish in asked):
        methods = (talk.customer or {}).get("payment_methods", {})
        yield from (f"{name} holds {method['balance']} USD." for name, method in methods.items() if "balance" in method)


def _given_back(result: dict[str, Any]) -> Decimal:
    dearer = Decimal(result.get("difference_usd", 0))
    return Decimal(result.get("refunded_usd", 0)) + Decimal(result.get("refund_on_arrival_usd", 0)) + max(-dearer, Decimal(0))


def _orders_asked_about(talk: Conversation, asked: list[Wish]) -> list[dict[str, Any]]:
    own = [order for order in talk.orders.values() if talk.customer and order["customer_id"] == talk.customer["customer_id"]]
    about: dict[str, dict[str, Any]] = {}
    for wish in asked:
        text = f"{wish.before} {wish.text}"
        chosen = [order for order in own if order["order_id"] in wish.order_ids]
        chosen = chosen or [order for order in own if mentions(text, (item["name"] for item in order["items"]))]
        if not chosen and not _TOTAL.search(wish.text):
            chosen = [order for order in own if order["status"] != "cancelled"][-_MOST_ORDERS:]
        about |= {order["order_id"]: order for order in chosen}
    return list(about.values())


def _status(order: dict[str, Any]) -> str:
    items = "; ".join(f"{item['name']} ({', '.join(item['options'].values())}) at {item['price_usd']} USD" for item in order["items"])
    tracking = f", tracking number {', '.join(order['tracking'])}" if order["tracking"] else ", not shipped yet"
    return f"{order['order_id']} is {order['status']}{tracking}; {order['total_usd']} USD for {items}."
