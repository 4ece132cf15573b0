"""The simulated products specialist: counts and compares variants from what the catalogue says."""

from __future__ import annotations

from typing import Any

from devstack.simulated_provider.policy import SimulatedAnswer

from .conversation import Conversation
from .matching import asked_options, available, describe, mentions

_MOST_PRODUCTS = 5


def answer_products(talk: Conversation) -> SimulatedAnswer:
    """List the products, look at those that the question names, answer."""
    listed = talk.made("list_products")
    if not listed:
        return SimulatedAnswer(calls=(("list_products", {}),))
    catalogue = {product["name"]: product["product_id"] for product in listed[0].value or ()}
    question, _, before = talk.ticket.partition("\nSaid before: ")
    named = mentions(question, catalogue) or mentions(before, catalogue)
    ids = list(dict.fromkeys(catalogue[mention.name] for mention in named))[:_MOST_PRODUCTS]
    unseen = [("get_product", {"product_id": product_id}) for product_id in ids]
    unseen = [call for call in unseen if not talk.made(*call)]
    if unseen:
        return SimulatedAnswer(calls=tuple(unseen))
    found = [talk.products[product_id] for product_id in ids if product_id in talk.products]
    if not found:
        return SimulatedAnswer(text="I found no product of that name in the catalogue.")
    return SimulatedAnswer(text="\n".join(_about(product, question) for product in found))


def _about(product: dict[str, Any], question: str) -> str:
    variants = product["variants"]
    free = available(product)
    text = f"{product['name']}: {len(free)} of {len(variants)} variants are available"
    if free:
        text += f", from {free[0]['price_usd']} to {free[-1]['price_usd']} USD. The cheapest: {describe(free[0])}"
    asked = asked_options(question, [variant["options"] for variant in variants])
    if not asked:
        return f"{text}."
    wanted = ", ".join(f"{option} {value}" for option, value in asked.items())
    fitting = [variant for variant in free if all(variant["options"].get(key) == value for key, value in asked.items())]
    if fitting:
        return f"{text}. With {wanted}: {'; '.join(describe(variant) for variant in fitting)}."
    option, value = next(iter(asked.items()))
    near = [describe(variant) for variant in free if variant["options"].get(option) == value]
    return f"{text}. None is available with {wanted}; with {option} {value}: {'; '.join(near) or 'none'}."
