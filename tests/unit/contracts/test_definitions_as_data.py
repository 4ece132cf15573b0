"""Agent definitions are data: the same content has the same hash everywhere, and nothing unknown slips in."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from workflows.contracts.agents import AgentDefinition, ApprovalPolicy, Cache, Limits, Memory, ToolSpec
from workflows.contracts.inference import Priority

TOOL = ToolSpec(name="find", description="Find.", parameters={"type": "object", "properties": {"q": {"type": "string"}}})
SUPPORT = AgentDefinition(name="support", instructions="Help.", tools=(TOOL,), limits=Limits(cost_usd=Decimal("0.5")))

CHANGES: list[dict[str, Any]] = [
    {"name": "other"},
    {"version": "2"},
    {"description": "x"},
    {"model": "fast"},
    {"instructions": "Help!"},
    {"tools": ()},
    {"tools": (TOOL.model_copy(update={"approve": True}),)},
    {"tools": (TOOL.model_copy(update={"invalidates": ("orders",)}),)},
    {"agents": ("helper",)},
    {"handoffs": ("helper",)},
    {"limits": Limits(cost_usd=Decimal("0.51"))},
    {"priority": Priority.HIGH},
    {"memory": Memory(recall=1)},
    {"output_schema": {"type": "object"}},
    {"max_output_tokens": 1_025},
    {"temperature": 0.5},
    {"cache": Cache(ttl_s=60)},
    {"ask_people": ApprovalPolicy()},
    {"on_cancel": "undo"},
]


def test_a_definition_that_is_written_down_and_read_again_has_the_same_hash() -> None:
    again = AgentDefinition.model_validate_json(SUPPORT.model_dump_json())
    assert again == SUPPORT
    assert again.content_hash() == SUPPORT.content_hash() == SUPPORT.pin().definition_hash
    assert len(SUPPORT.content_hash()) == 32


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_any_change_of_content_changes_the_hash(change: dict[str, Any]) -> None:
    assert SUPPORT.model_copy(update=change).content_hash() != SUPPORT.content_hash()


def test_every_field_is_part_of_the_hash() -> None:
    assert {field for change in CHANGES for field in change} == set(AgentDefinition.model_fields)


def test_a_definition_without_a_cache_is_stored_as_before_there_was_one() -> None:
    assert "cache" not in SUPPORT.model_dump_json()
    assert AgentDefinition.model_validate_json(SUPPORT.model_copy(update={"cache": Cache(ttl_s=60)}).model_dump_json()).cache == Cache(
        ttl_s=60
    )


def test_a_definition_that_asks_nobody_is_stored_as_before_it_could() -> None:
    stored = SUPPORT.model_dump_json()
    assert not any(field in stored for field in ("ask_people", "on_cancel", "policy", "undo"))


def test_a_pin_carries_what_orchestration_decides_by() -> None:
    pin = SUPPORT.pin()
    assert (pin.name, pin.version, pin.model, pin.limits, pin.memory) == ("support", "1", "smart", SUPPORT.limits, SUPPORT.memory)


@pytest.mark.parametrize("version", [1, 1.5, "1"])
def test_a_version_may_be_written_as_a_number(version: Any) -> None:
    assert AgentDefinition(name="a", instructions="b", version=version).version == str(version)


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Support"},
        {"name": "support agent"},
        {"name": "support.2"},
        {"name": ""},
        {"instructions": ""},
        {"temperatur": 1},
        {"temperature": 3},
        {"max_output_tokens": 0},
        {"limits": {"steps": 0}},
        {"limits": {"cost_usd": 0}},
        {"limits": {"time_s": 0}},
        {"limits": {"minutes": 5}},
        {"memory": {"scope": "world"}},
        {"cache": {"ttl_s": 0}},
        {"cache": {"ttl_s": 1, "scope": "world"}},
        {"tools": [{"name": "no good", "description": "", "parameters": {}}]},
    ],
)
def test_what_cannot_be_used_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AgentDefinition.model_validate({"name": "support", "instructions": "Help."} | fields)


def test_a_definition_cannot_be_changed_after_it_is_made() -> None:
    with pytest.raises(ValidationError):
        SUPPORT.name = "other"  # type: ignore[misc]
