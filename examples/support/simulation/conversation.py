"""A conversation as facts: who the customer is, what was looked up, what was done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from devstack.simulated_provider.policy import SimulatedRequest
from workflows.contracts.messages import Role

_REFUSED = "A person said no: "


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call with its result; `value` is None when it failed, and `text` says why. `before`: somebody else's call had done it."""

    tool: str
    arguments: dict[str, Any]
    value: Any
    text: str
    before: bool = False

    @property
    def refusal(self) -> str:
        """Why a person said no to it; empty when none did."""
        return self.text.removeprefix(_REFUSED) if self.text.startswith(_REFUSED) else ""


class Conversation:
    """What the messages of a request say. Looks at nothing else, so the same request is always answered the same way."""

    def __init__(self, request: SimulatedRequest) -> None:
        self.offered = frozenset(tool.name for tool in request.tools)
        self.ticket = next((message.text for message in request.messages if message.role is Role.USER), "")
        results = {message.call_id: message for message in request.messages if message.role is Role.TOOL}
        self.calls: list[Call] = []
        for message in request.messages:
            for call in message.tool_calls:
                result = results.get(call.call_id)
                if result is not None:
                    before, text = done_before(result.text)
                    value = None if result.is_error else _json(text)
                    self.calls.append(Call(call.name, _json(call.arguments) or {}, value, result.text, before))

    def made(self, tool: str, arguments: dict[str, Any] | None = None) -> list[Call]:
        """The calls of a tool that have a result, with these arguments if any are given."""
        return [call for call in self.calls if call.tool == tool and (arguments is None or call.arguments == arguments)]

    @cached_property
    def customer(self) -> dict[str, Any] | None:
        """The customer that was found."""
        return next((call.value for call in self.made("find_customer") if isinstance(call.value, dict)), None)

    @cached_property
    def orders(self) -> dict[str, dict[str, Any]]:
        """Every order that was looked up, as it was at first sight: what was done since does not change what was asked for."""
        found: dict[str, dict[str, Any]] = {}
        for call in self.made("find_order"):
            if isinstance(call.value, dict):
                found.setdefault(call.value["order_id"], call.value)
        return found

    @cached_property
    def listed(self) -> list[dict[str, Any]] | None:
        """The customer's orders in short, or None before they were asked for."""
        return next((call.value for call in self.made("list_orders") if isinstance(call.value, list)), None)

    @cached_property
    def products(self) -> dict[str, dict[str, Any]]:
        """Every product that was looked up."""
        found = [call.value for call in self.made("get_product") if isinstance(call.value, dict)]
        return {product["product_id"]: product for product in found}


def done_before(text: str) -> tuple[bool, str]:
    """Whether a result is that of an earlier call under the same business key, and the result alone."""
    said, found, result = text.partition("The result then: ")
    return (True, result) if found and said.startswith("Not done now") else (False, text)


def _json(text: str) -> Any:
    """The JSON value of a text, or None: tools answer in JSON and fail in words."""
    try:
        return json.loads(text)
    except ValueError:
        return None
