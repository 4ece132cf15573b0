"""Definitions: kept for ever by content, one current by name, and told when two workers do not agree."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from structlog.testing import capture_logs

from state import definitions
from state.definitions import Definitions
from state.pool import Database
from workflows.contracts.agents import AgentDefinition, Effect, Limits, ToolSpec
from workflows.contracts.errors import UnknownAgentError


def named(name: str, **fields: Any) -> AgentDefinition:
    return AgentDefinition(**{"name": name, "instructions": "Help.", **fields})


@pytest.fixture
def name() -> str:
    return f"agent-{uuid.uuid4().hex[:8]}"


async def test_a_definition_comes_back_with_the_hash_it_went_in_with(database: Database, name: str) -> None:
    pay = ToolSpec(
        name="pay", description="Zahlt grüße 💶.", parameters={"type": "object"}, effect=Effect.ONCE, approve="a > 0.1", key=None
    )
    given = named(name, tools=(pay,), limits=Limits(cost_usd="0.50"), output_schema={"b": 1, "a": [1.5]})  # type: ignore[arg-type]
    await Definitions(database).register([given], by="test")
    for found in (await Definitions(database).by_hash(given.content_hash()), await Definitions(database).current(name)):
        assert found == given
        assert found.content_hash() == given.content_hash()


async def test_a_schemas_properties_keep_the_order_in_which_a_model_fills_them(database: Database, name: str) -> None:
    def answering(*properties: str) -> AgentDefinition:
        return named(name, output_schema={"type": "object", "properties": {each: {"type": "string"} for each in properties}})

    first, second = answering("reasoning", "answer", "a"), answering("a", "answer", "reasoning")
    await Definitions(database).register([first], by="test")
    await Definitions(database).register([second], by="test")
    for given in (first, second):
        found = await Definitions(database).by_hash(given.content_hash())
        assert found.output_schema is not None
        assert list(found.output_schema["properties"]) == list(given.output_schema["properties"])  # type: ignore[index]


async def test_the_newest_registration_is_current_and_older_contents_stay(database: Database, name: str) -> None:
    old, new = named(name), named(name, version="2", instructions="Help more.")
    await Definitions(database).register([old], by="one")
    await Definitions(database).register([new], by="two")
    reader = Definitions(database)
    assert await reader.current(name) == new
    assert await reader.by_hash(old.content_hash()) == old
    assert new in await reader.all_current()
    assert old not in await reader.all_current()


async def test_who_has_seen_a_new_version_in_the_list_starts_it(database: Database, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "CURRENT_FOR_S", 60.0)
    old, new = named(name), named(name, version="2", instructions="Help more.")
    await Definitions(database).register([old], by="one")
    reader = Definitions(database)
    assert await reader.current(name) == old
    await Definitions(database).register([new], by="two")
    assert await reader.current(name) == old, "it has looked a moment ago"
    assert new in await reader.all_current()
    assert await reader.current(name) == new


async def test_two_contents_under_one_version_are_logged_and_kept_for_the_doctor(database: Database, name: str) -> None:
    one, two = named(name), named(name, instructions="Help more.")
    store = Definitions(database)
    await store.register([one], by="worker-1")
    with capture_logs() as logs:
        await store.register([two], by="worker-2")
        await store.register([two], by="worker-3")
    told = [entry for entry in logs if entry["event"] == "definition.differs"]
    assert [(entry["agent"], entry["old"], entry["new"]) for entry in told] == [(name, one.content_hash(), two.content_hash())]
    (conflict,) = [conflict for conflict in await store.conflicts() if conflict.name == name]
    assert (conflict.version, conflict.old_hash, conflict.new_hash) == ("1", one.content_hash(), two.content_hash())
    assert conflict.registered_by == "worker-2"


async def test_a_new_version_is_no_conflict(database: Database, name: str) -> None:
    store = Definitions(database)
    await store.register([named(name)], by="worker-1")
    with capture_logs() as logs:
        await store.register([named(name, version=2, instructions="Help more.")], by="worker-1")
    assert not [entry for entry in logs if entry["event"] == "definition.differs"]


async def test_an_unknown_agent_is_refused_with_the_known_ones(database: Database, name: str) -> None:
    store = Definitions(database)
    await store.register([named(name)], by="worker-1")
    with pytest.raises(UnknownAgentError, match=f"registered are .*{name}.*Did you mean '{name}'") as refused:
        await store.current(name + "x")
    assert f"No agent '{name}x'" in str(refused.value)
    with pytest.raises(UnknownAgentError, match="is DATABASE_URL the one the run was started with"):
        await store.by_hash("0" * 32)
