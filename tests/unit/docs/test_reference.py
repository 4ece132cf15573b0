"""The reference pages say what the code says: fields, defaults, classes, attributes, time limits."""

from __future__ import annotations

import inspect
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from activities.inference.settings import load
from holdfast import tool
from state import effects
from workflows.contracts import inference, names, policies, provider_settings
from workflows.contracts.agents import AgentDefinition, HttpCall, Limits, Memory, ToolSpec
from workflows.contracts.errors import FailureClass
from workflows.contracts.provider_settings import ProviderEntry
from workflows.contracts.runs import RunStatus

from . import pages

AGENTS = "reference/agent-definition.md"


def documented(heading: str, page: str = AGENTS) -> dict[str, str]:
    """Field → default as the table says."""
    return {name: row[1] for row in pages.table(page, heading) for name in row[0].split(", ")}


@pytest.mark.parametrize(("heading", "model"), [("limits", Limits), ("memory", Memory)])
def test_the_parts_of_an_agent_are_told_with_their_defaults(heading: str, model: type[BaseModel]) -> None:
    told = documented(f"`{heading}`")
    assert {name: plain(field.default) for name, field in model.model_fields.items()} == told


def test_every_field_of_an_agent_is_told() -> None:
    told = documented("An agent")
    assert set(told) == {*AgentDefinition.model_fields, "approvals"}
    fields = AgentDefinition.model_fields
    assert {name for name, default in told.items() if default == "required"} == {n for n, f in fields.items() if f.is_required()}
    assert told["max_output_tokens"] == plain(fields["max_output_tokens"].default)
    assert told["model"] == fields["model"].default


def test_every_argument_of_the_tool_decorator_is_told_with_its_default() -> None:
    told = documented("Tools in Python")
    given = {name: p.default for name, p in inspect.signature(tool).parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert set(told) == set(given)
    assert told["timeout_s"] == plain(given["timeout_s"])
    assert told["retries"] == plain(given["retries"])
    assert told["approve"] == str(given["approve"])
    assert told["effect"] == f"Effect.{given['effect'].name}"


def test_every_field_of_an_http_tool_is_told() -> None:
    told = set(documented("HTTP tools"))
    own = set(ToolSpec.model_fields) - {"name", "kind", "http", "undo"} | {"tool"}
    assert told == own | {f"http.{name}" for name in HttpCall.model_fields}


def test_every_field_of_models_yaml_is_told() -> None:
    told = documented("models.yaml", "reference/models-yaml.md")
    places: dict[str, type[BaseModel]] = {
        "providers.NAME": provider_settings.ProviderEntry,
        "providers.NAME.keys": provider_settings.KeyEntry,
        "tiers.NAME": inference.TierEntry,
        "tiers.NAME.candidates": inference.TierCandidate,
        "models.PROVIDER:MODEL": provider_settings.ModelSettings,
        "RATES": provider_settings.Rates,
        "budgets.NAME": inference.BudgetEntry,
        "breakers": inference.BreakerSettings,
        "cache": inference.CacheSettings,
        "cache.semantic": inference.SemanticSettings,
        "limiter": inference.LimiterSettings,
        "batch": inference.BatchSettings,
        "retention": inference.RetentionSettings,
        "alerts": inference.AlertSettings,
        "unknown_price": inference.UnknownPrice,
    }
    fields = {f"{place}.{name}": field for place, model in places.items() for name, field in model.model_fields.items()}
    free = {"tasks.NAME", "tenants.NAME", "agents.NAME", "flags.NAME"}
    assert set(told) == fields.keys() | free
    assert {name.partition(".")[0] for name in told} - {"RATES"} == set(inference.InferenceSettings.model_fields)
    for name, field in fields.items():
        if field.is_required():
            assert told[name] == "required", name
        elif isinstance(field.default, bool | int | float) or (name.startswith("budgets") and field.default is not None):
            assert told[name] == plain(field.default), name


def test_the_default_models_yaml_is_the_default(tmp_path: Path) -> None:
    block = next(block for block in pages.blocks("yaml") if block.page.name == "models-yaml.md")
    (tmp_path / "models.yaml").write_text(block.text, encoding="utf-8")
    told, without = load([tmp_path / "models.yaml"], {}), load([], {})
    assert told.tiers == without.tiers
    assert {name: opened(entry) for name, entry in told.providers.items()} == {name: opened(e) for name, e in without.providers.items()}
    assert set(yaml.safe_load(block.text)["providers"]) == set(without.providers)


def test_every_failure_class_is_told() -> None:
    assert [row[0] for row in pages.table("reference/failure-classes.md", "Failure classes")] == [c.value for c in FailureClass]


def test_every_class_that_can_park_a_run_is_told_with_its_remedy() -> None:
    told = {row[0] for row in pages.table("how-to/dead-letters.md", "Mend the cause, then redrive")}
    assert told <= {c.value for c in FailureClass}
    assert {c.value for c in FailureClass} - told == {"throttled"}, "this one does not park a run"


def test_every_search_attribute_is_told_with_its_type() -> None:
    told = {row[0]: row[1] for row in pages.table("reference/search-attributes.md", "Search attributes")}
    assert told == dict(names.SEARCH_ATTRIBUTES)


def test_every_status_that_a_run_writes_is_told() -> None:
    row = next(row for row in pages.table("reference/search-attributes.md", "Search attributes") if row[0] == names.AGENT_STATUS)
    ended_from_outside = {RunStatus.TERMINATED, RunStatus.TIMED_OUT}
    assert set(row[2].split(", ")) == {status.value for status in RunStatus if status not in ended_from_outside}


def test_the_time_limits_are_those_of_the_policies() -> None:
    told = [
        float(re.sub(",", "", number)) for row in pages.table("reference/failure-classes.md", "Time limits") for number in numbers(row[1])
    ]
    assert told == [
        policies.HEARTBEAT_S,
        policies.STREAM_IDLE_S,
        policies.MODEL_CALL.start_to_close_s,
        policies.MODEL_CALL.schedule_to_close_s,
        policies.TOOL_MARGIN_S,
        policies.RECORD_FOR_S,
        policies.GRACEFUL_SHUTDOWN_S,
    ]


def test_the_page_on_kills_says_the_time_outs_of_the_policies() -> None:
    text = (pages.ROOT / "docs/explanation/kill-9.md").read_text(encoding="utf-8")
    assert f"no heartbeat for {policies.HEARTBEAT_S:g} s" in text
    assert f"time-out, {policies.WORKFLOW_TASK_S:g} s" in text
    assert f"cache, {policies.STICKY_SCHEDULE_TO_START_S:g} s" in text
    assert f"calls in the air {policies.GRACEFUL_SHUTDOWN_S:g} s" in text
    assert f"effect ledger, {effects.LEASE_S:g} s" in text
    assert policies.RECORD_FOR_S == 240
    assert "up to four minutes" in text


def opened(entry: ProviderEntry) -> ProviderEntry:
    """An entry as it is opened: an empty address is none."""
    return entry.model_copy(update={"base_url": entry.base_url or None})


def numbers(text: str) -> list[str]:
    return re.findall(r"^[\d,]+|(?<=and )\d+", text)


def plain(value: Any) -> str:
    """A default as a table writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return str(value)
