"""What a tool may declare of the cached answers that it makes old, and what its tags become."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from activities.inference.cache_keys import Asker, cache_key
from workflows.contracts import tags
from workflows.contracts.agents import Cache, Effect
from workflows.contracts.errors import DefinitionError
from workflows.contracts.messages import Message, ModelRequest, Role
from workflows.contracts.tools import Tool, tool


def refund(**declared: Any) -> Tool[..., Any]:
    @tool(**({"effect": Effect.ONCE} | declared))
    async def refund(order_id: str, password: str, note: str = "") -> str:
        """Pay an order back."""
        return order_id

    return refund


def test_the_tags_are_part_of_the_definition_and_a_tool_without_any_keeps_its_hash() -> None:
    assert refund(invalidates=["orders:{order_id}", "sums"]).spec.invalidates == ("orders:{order_id}", "sums")
    assert refund(invalidates="sums").spec.invalidates == ("sums",)
    assert "invalidates" not in refund().spec.model_dump(mode="json")


@pytest.mark.parametrize(
    ("tag", "options", "said"),
    [
        ("orders:{oder_id}", {}, "invalidates: no argument is called `oder_id`.*order_id"),
        ("orders:{order_id", {}, "invalidates: the tag .* cannot be read.*Write it like"),
        ("", {}, "invalidates: the tag '' cannot be read"),
        ("orders:{note}", {}, "invalidates: the argument `note` may be left out"),
        ("orders:{password}", {}, "invalidates: `password` names a secret"),
        ("orders", {"effect": Effect.PURE}, "invalidates: a pure tool changes nothing.*leave invalidates out"),
    ],
)
def test_a_tag_that_would_never_fit_is_refused_with_the_remedy(tag: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        refund(invalidates=[tag], **options)


def test_places_become_values_as_text() -> None:
    values = {"order_id": "W1", "amount": Decimal("1.50"), "open": True, "user": None}
    made = tags.filled(["orders:{order_id}", "{amount}/{open}", "of:{user}", "plain"], values)
    assert made == ("orders:W1", "1.50/true", "of:", "plain")


def test_answers_are_filed_under_the_tags_of_their_asker() -> None:
    request = ModelRequest(model="m", messages=(Message(role=Role.USER, text="Hi"),), max_output_tokens=9, idempotency_key="k")
    key = cache_key(request, "smart", Cache(ttl_s=60, tags=("orders:{user}", "shop")), Asker("acme", "desk", "u1"))
    assert key is not None
    assert key.tags == ("orders:u1", "shop")


@pytest.mark.parametrize("tag", ["orders:{order_id}", "{", " "])
def test_a_tag_of_answers_that_cannot_be_filled_in_is_refused(tag: str) -> None:
    with pytest.raises(ValidationError, match=r"only \{tenant\} and \{user\}"):
        Cache(ttl_s=60, tags=(tag,))
