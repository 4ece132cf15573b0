"""From what a customer wants and what the shop says to what is done about it: actions, and matters for a person."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from .conversation import Conversation
from .matching import choose_variant, mentions, named_lines
from .reading import ADDRESS, ALL, EXCEPT, FAULT, VAGUE, Intent, Reading, Wish

Lines = list[tuple[dict[str, Any], dict[str, Any]]]
"""Pairs of an order and one of its lines."""

_OWN = {
    Intent.CANCEL: ("pending",),
    Intent.RETURN: ("delivered",),
    Intent.REFUND: ("delivered",),
    Intent.EXCHANGE: ("pending", "delivered"),
}
_PENDING = re.compile(r"\bpending\b|\bnot (?:yet )?shipped\b|\bjust placed\b", re.IGNORECASE)
_ARRIVED = re.compile(r"\breceived\b|\bdelivered\b|\barrived\b", re.IGNORECASE)
_BECAUSE = re.compile(r"\b(?:because|since|received (?:along )?with)\b.*", re.IGNORECASE | re.DOTALL)
_TARGET = re.compile(r"\b(?:to|for|into|with|but)\b", re.IGNORECASE)
_WHOLE = re.compile(r"\beverything\b|\b(?:all|every|both)\b(?: \w+){0,3} (?:items?|things?|orders?)\b", re.IGNORECASE)
_PROFILE = re.compile(r"\b(?:user|account|default|profile)\b(?! id)", re.IGNORECASE)


@dataclass
class Plan:
    """What to do. Each action is a tool with arguments; each open matter is a sentence for the person who takes over."""

    actions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    lookups: list[str] = field(default_factory=list)
    """Products whose variants must be seen before the plan is complete."""


def plan(reading: Reading, talk: Conversation) -> Plan:
    """Decide on every wish that concerns orders. The customer and their orders must have been looked up."""
    planner = _Planner(talk)
    if reading.orders_about:
        planner.plan.open.append("The ticket tries to give the assistant orders; those sentences were not followed.")
    for wish in reading.wishes:
        if wish.conditional:
            planner.leave(wish, "it depends on a condition that only the customer can settle")
        elif wish.intent is Intent.PERSON:
            planner.leave(wish, "this is for a person")
        elif wish.intent is Intent.CANCEL:
            planner.cancel(wish)
        elif wish.intent is Intent.ADDRESS:
            planner.readdress(wish)
        elif wish.intent in _OWN:
            planner.items(wish)
    if not reading.wishes and not reading.orders_about:
        planner.plan.open.append("The ticket could not be understood.")
    return planner.finish()


class _Planner:
    def __init__(self, talk: Conversation) -> None:
        self.plan = Plan()
        self.talk = talk
        self.customer: dict[str, Any] = talk.customer or {}
        ids = [order["order_id"] for order in talk.listed or ()]
        self.orders = [talk.orders[order_id] for order_id in ids if order_id in talk.orders]
        self.returns: dict[str, dict[int, dict[str, Any]]] = {}
        self.refunds: dict[str, dict[int, dict[str, Any]]] = {}
        self.swaps: dict[str, dict[int, tuple[str, str]]] = {}
        self.reasons: dict[str, str] = {}

    def leave(self, wish: Wish, why: str) -> None:
        """Leave a wish to a person."""
        note = f'"{_short(wish.said)}": {why}.'
        if note not in self.plan.open:
            self.plan.open.append(note)

    def act(self, tool: str, **arguments: Any) -> None:
        """Do something, once."""
        if (tool, arguments) not in self.plan.actions:
            self.plan.actions.append((tool, arguments))

    def cancel(self, wish: Wish) -> None:
        """Whole pending orders only."""
        text = _BECAUSE.sub("", wish.text)
        orders = self._scope(wish)
        named = [order for order in orders if named_lines(text, order["items"])[0]]
        if not wish.order_ids:
            if named:
                orders = named
            elif not (ALL.search(text) and re.search(r"\borders\b", text)) and (
                len(orders) != 1 or not re.search(r"\border\b|\bit\b", text)
            ):
                return self.leave(wish, "it is not clear which pending order is meant")
        for order in orders:
            lines, unclear = named_lines(text, order["items"])
            if unclear or (lines and len(lines) < len(order["items"])):
                self.leave(wish, f"only the whole order {order['order_id']} can be cancelled, not single items")
            else:
                self.act("cancel_order", order_id=order["order_id"], customer_id=self.customer["customer_id"], reason=_short(wish.said))
        if not orders and not wish.order_ids:
            self.leave(wish, "there is no pending order that it fits")
        return None

    def items(self, wish: Wish) -> None:
        """Return, refund or exchange lines of orders."""
        if wish.intent is Intent.REFUND and not FAULT.search(f"{wish.before} {wish.text}"):
            return self.leave(wish, "no fault is named, so a person decides on the refund")
        if wish.intent is not Intent.EXCHANGE and VAGUE.search(wish.text):
            return self.leave(wish, "it is not clear which items are meant")
        if wish.intent is Intent.EXCHANGE:
            return self._exchange(wish)
        orders = self._scope(wish)
        if not orders and wish.order_ids:
            return None
        text = _BECAUSE.sub("", wish.text)
        lines, problem = self._lines(orders, text)
        if not lines and not problem:
            lines, problem = self._lines(orders, f"{wish.before} {wish.text}")
        if not lines and not problem and (wish.order_ids or _WHOLE.search(text)):
            lines = [(order, line) for order in orders for line in order["items"]]
        if not lines:
            return self.leave(wish, problem or "it is not clear which items are meant")
        kept = self.refunds if wish.intent is Intent.REFUND else self.returns
        for order, line in lines:
            kept.setdefault(order["order_id"], {})[line["line"]] = line
            self.reasons.setdefault(order["order_id"], _short(wish.said))
        return None

    def readdress(self, wish: Wish) -> None:
        """A pending order, or the account."""
        address = self._address(wish)
        if address is None:
            return self.leave(wish, "the new address is not given clearly enough")
        pending = [order["order_id"] for order in self.orders if order["status"] == "pending"]
        ids = [order_id for order_id in _first_ids(wish.text) if order_id in pending]
        account = bool(_PROFILE.search(wish.text)) and not re.search(r"\bsame as\b|\bto (?:my|your) (?:default|user|account)\b", wish.text)
        if not ids and not _first_ids(wish.text):
            every = ALL.search(wish.text) and re.search(r"\border", wish.text)
            ids = pending if every else pending[:1] if len(pending) == 1 and not account else []
        if not ids and not account:
            return self.leave(wish, "it is not clear which pending order is meant")
        own = self.customer["customer_id"]
        for order_id in ids:
            self.act("redirect_order", order_id=order_id, customer_id=own, **address)
        if account:
            self.act("change_address", customer_id=own, **address)
        return None

    def finish(self) -> Plan:
        """Put what was gathered for each order into one call each."""
        own = self.customer.get("customer_id")
        for order_id, lines in self.refunds.items():
            amount = sum((Decimal(line["price_usd"]) for line in lines.values()), Decimal(0))
            self.act("refund", order_id=order_id, customer_id=own, amount_usd=f"{amount:.2f}", reason=self.reasons[order_id])
        for order_id, lines in self.returns.items():
            ids = [line["item_id"] for number, line in lines.items() if number not in self.refunds.get(order_id, {})]
            if ids:
                self.act("return_items", order_id=order_id, customer_id=own, item_ids=ids, reason=self.reasons[order_id])
        for order_id, swaps in self.swaps.items():
            old, new = [pair[0] for pair in swaps.values()], [pair[1] for pair in swaps.values()]
            self.act("exchange_items", order_id=order_id, customer_id=own, item_ids=old, new_item_ids=new)
        return self.plan

    def _scope(self, wish: Wish) -> list[dict[str, Any]]:
        """The orders that a wish is about, as far as its kind of change is possible on them; says what is not."""
        statuses = _OWN[wish.intent]
        if not wish.order_ids:
            hint = ("pending",) if _PENDING.search(wish.text) else ("delivered",) if _ARRIVED.search(wish.text) else statuses
            return [order for order in self.orders if order["status"] in statuses and order["status"] in hint]
        own = {order["order_id"]: order for order in self.orders}
        for order_id in wish.order_ids:
            if order_id not in own:
                self.leave(wish, f"{order_id} is not an order of this customer")
            elif own[order_id]["status"] not in statuses:
                self.leave(wish, f"{order_id} is {own[order_id]['status']}, so the shop's rules do not allow it")
        return [own[i] for i in wish.order_ids if i in own and own[i]["status"] in statuses]

    def _lines(self, orders: Sequence[dict[str, Any]], text: str) -> tuple[Lines, str]:
        """The lines of orders that a text names, and why they are not clear; neither when it names none."""
        left_out = EXCEPT.split(text, maxsplit=1)
        if len(left_out) == 2 and ALL.search(text):
            return self._all_but(orders, left_out[1])
        found: Lines = []
        for order in orders:
            lines, unclear = named_lines(text, order["items"])
            if unclear:
                return [], f"it is not clear which {' and '.join(unclear)} of {order['order_id']} is meant"
            found += [(order, line) for line in lines]
        holders = Counter(name for name, _ in {(line["name"], order["order_id"]) for order, line in found})
        twice = sorted(name for name, times in holders.items() if times > 1)
        if twice and not ALL.search(text):
            return [], f"{' and '.join(twice)} is in several orders"
        return found, ""

    @staticmethod
    def _all_but(orders: Iterable[dict[str, Any]], left_out: str) -> tuple[Lines, str]:
        holding = [order for order in orders if mentions(left_out, (item["name"] for item in order["items"]))]
        if len(holding) != 1:
            return [], "it is not clear which order is meant"
        out = {mention.name for mention in mentions(left_out, (item["name"] for item in holding[0]["items"]))}
        return [(holding[0], line) for line in holding[0]["items"] if line["name"] not in out], ""

    def _exchange(self, wish: Wish) -> None:
        text = wish.text if self._names_item(wish.text) else f"{wish.before} {wish.text}"
        orders = self._scope(wish)
        every = list(dict.fromkeys(item["name"] for order in orders for item in order["items"]))
        found = mentions(text, every)
        if not found:
            return self.leave(wish, "no item of the customer's orders is named")
        for name, source, target in _parts(text, [(m.name, m.start, m.end) for m in found]):
            lines = [
                (order, line) for order in orders for line in named_lines(f"{name} {source}", order["items"])[0] if line["name"] == name
            ]
            if not lines or (len({order["order_id"] for order, _ in lines}) > 1 and not ALL.search(text)):
                self.leave(wish, f"it is not clear which {name} is meant")
                continue
            self._swap(wish, lines, target)
        return None

    def _swap(self, wish: Wish, lines: Lines, target: str) -> None:
        for order, line in lines:
            product = self.talk.products.get(line["product_id"])
            if product is None:
                if line["product_id"] not in self.plan.lookups:
                    self.plan.lookups.append(line["product_id"])
                continue
            chosen, why = choose_variant(product, line, target, wish.prefer)
            if chosen is None:
                self.leave(wish, f"{line['name']}: {why}")
            else:
                self.swaps.setdefault(order["order_id"], {})[line["line"]] = (line["item_id"], chosen)

    def _names_item(self, text: str) -> bool:
        return bool(mentions(text, (item["name"] for order in self.orders for item in order["items"])))

    def _address(self, wish: Wish) -> dict[str, str] | None:
        found = ADDRESS.search(wish.text)
        if found:
            parts = {key: value or "" for key, value in found.groupdict().items()}
        else:
            other = re.search(r"same as\D*#?W(\d+)", wish.text)
            order = self.talk.orders.get(f"#W{other[1]}") if other else None
            if order is not None and order["customer_id"] == self.customer.get("customer_id"):
                parts = order["address"]
            elif re.search(r"\bto (?:my|your) (?:default|account|profile)\b", wish.text):
                parts = self.customer.get("address") or {}
            else:
                return None
        names = {"address1": "address1", "address2": "address2", "city": "city", "state": "state", "country": "country", "zip": "zip_code"}
        return {names[key]: value for key, value in parts.items() if key in names and value}


def _parts(text: str, found: list[tuple[str, int, int]]) -> list[tuple[str, str, str]]:
    """For each item the text around its name, and what is wanted instead: the words from its name to the next item's."""
    starts = [match.start() for match in re.finditer(r"[\w%#][\w'\u2019%#-]*", text)] + [len(text)]
    first = list({name: (name, start, end) for name, start, end in reversed(found)}.values())[::-1]
    first.sort(key=lambda part: part[1])
    parts = []
    for number, (name, start, end) in enumerate(first):
        until = first[number + 1][1] if number + 1 < len(first) else len(starts) - 1
        rest = text[starts[end] : starts[until]]
        cut = _TARGET.search(rest)
        around = text[starts[max(0, start - 2)] : starts[end]]
        parts.append((name, f"{around} {rest[: cut.start()] if cut else ''}", rest[cut.end() :] if cut else rest))
    return parts


def _first_ids(text: str) -> list[str]:
    """The orders to change: not the one whose address is taken."""
    return [f"#W{digits}" for digits in re.findall(r"#?\bW(\d{6,8})\b", re.split(r"\bsame as\b", text)[0])]


def _short(text: str) -> str:
    plain = " ".join(text.split())
    return plain if len(plain) <= 160 else f"{plain[:157]}..."
