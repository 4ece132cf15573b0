"""What the simulated model answers, for each agent: rules over the ticket's words and the tools' results, no model behind them.

It reads the same messages that a real model would, knows no ticket and no expected outcome, and hands to a person what it does
not understand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest

from .conversation import Conversation
from .planning import Plan, plan
from .products import answer_products
from .reading import Intent, Reading, read
from .replies import EFFECTS, farewell

Calls = Sequence[tuple[str, dict[str, Any]]]

# Which specialist has which tool; an agent hands over when what is left is another's.
_OWNERS = {
    "cancel_order": "orders",
    "redirect_order": "orders",
    "change_address": "orders",
    "refund": "refunds",
    "return_items": "refunds",
    "exchange_items": "refunds",
    "get_product": "refunds",
}
_FIRST_OWNER = {
    Intent.CANCEL: "orders",
    Intent.ADDRESS: "orders",
    Intent.STATUS: "orders",
    Intent.RETURN: "refunds",
    Intent.REFUND: "refunds",
    Intent.EXCHANGE: "refunds",
}


def answer(request: SimulatedRequest) -> SimulatedAnswer:
    """The next turn of whichever agent asks; the agents are told apart by the tools that they are offered."""
    talk = Conversation(request)
    if "list_products" in talk.offered:
        return answer_products(talk)
    if talk.offered & EFFECTS:
        return _specialist(talk, read(talk.ticket))
    if "find_customer" in talk.offered:
        return _triage(talk, read(talk.ticket))
    return SimulatedAnswer(text="This simulated model only knows the agents of the support example.")


def _triage(talk: Conversation, reading: Reading) -> SimulatedAnswer:
    """Find out who writes, have product questions answered, and pass on what is left."""
    calls = [("products", {"request": _question(wish.text, wish.before)}) for wish in reading.wishes if wish.intent is Intent.PRODUCT]
    if talk.customer is None:
        untried = [way for way in reading.identities if not talk.made("find_customer", way)]
        calls += [("find_customer", way) for way in untried[:1]]
    if not talk.made("find_customer"):
        calls += [("find_order", {"order_id": order_id}) for order_id in reading.order_ids]
    if open_calls := _unmade(talk, calls):
        return _turn("I look into it.", open_calls)
    for_person = [wish for wish in reading.wishes if wish.intent is not Intent.PRODUCT]
    if not for_person and reading.wishes and not reading.orders_about:
        return SimulatedAnswer(text=farewell(talk, reading, Plan()))
    owner = next((_FIRST_OWNER[wish.intent] for wish in for_person if wish.intent in _FIRST_OWNER), None)
    if talk.customer is not None and owner is not None:
        return _turn("", [(f"hand_over_to_{owner}", {"reason": f"{talk.customer['name']} was found; the ticket asks for order work."})])
    left = plan(reading, talk) if talk.customer is not None or not for_person else _unknown_customer(reading)
    return _close(talk, reading, left)


def _specialist(talk: Conversation, reading: Reading) -> SimulatedAnswer:
    """Look up the customer's orders, do what is wanted and allowed, and leave the rest to whom it belongs."""
    if talk.customer is None:
        return _close(talk, reading, _unknown_customer(reading))
    if talk.listed is None and not talk.made("list_orders"):
        return _turn("", [("list_orders", {"customer_id": talk.customer["customer_id"]})])
    ids = dict.fromkeys([*(order["order_id"] for order in talk.listed or ()), *reading.order_ids])
    if unseen := _unmade(talk, [("find_order", {"order_id": order_id}) for order_id in ids]):
        return _turn(f"I look at {len(unseen)} orders.", unseen)
    todo = plan(reading, talk)
    lookups: Calls = [("get_product", {"product_id": product_id}) for product_id in todo.lookups]
    for calls in (_unmade(talk, lookups), _unmade(talk, todo.actions)):
        own = [call for call in calls if call[0] in talk.offered]
        if own:
            return _turn("", own)
        if calls and (tool := f"hand_over_to_{_OWNERS[calls[0][0]]}") in talk.offered:
            return _turn("", [(tool, {"reason": f"What is left belongs to {_OWNERS[calls[0][0]]}."})])
    return _close(talk, reading, todo)


def _close(talk: Conversation, reading: Reading, left: Plan) -> SimulatedAnswer:
    """Put what is left on a person's desk, then say how it ended."""
    failed = [f"{call.tool} failed: {call.text}" for call in talk.calls if call.tool in EFFECTS and call.value is None and not call.refusal]
    if (left.open or failed) and not talk.made("escalate_to_person"):
        who = {"customer_id": talk.customer["customer_id"]} if talk.customer else {}
        return _turn("", [("escalate_to_person", {"summary": " ".join([*left.open, *failed])[:1500], **who})])
    return SimulatedAnswer(text=farewell(talk, reading, left))


def _unknown_customer(reading: Reading) -> Plan:
    tried = "no account fits what they said of themselves" if reading.identities else "they did not say who they are"
    return Plan(open=[f"The customer could not be identified: {tried}. Nothing was changed."])


def _unmade(talk: Conversation, calls: Iterable[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Those of the calls that have no result yet, each once."""
    unmade: list[tuple[str, dict[str, Any]]] = []
    for call in calls:
        if call not in unmade and not talk.made(*call):
            unmade.append(call)
    return unmade


def _turn(text: str, calls: Calls) -> SimulatedAnswer:
    return SimulatedAnswer(text=text, calls=tuple(calls))


def _question(text: str, before: str) -> str:
    refers = re.search(r"\b(?:it|its|they|them|these|those)\b", text, re.IGNORECASE)
    return f"{text}\nSaid before: {before.strip()}" if refers and before.strip() else text
