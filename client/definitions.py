"""The agents that runs can be started of, as the database has them."""

from __future__ import annotations

import importlib
from typing import Any, cast

from state.pool import Database
from workflows.contracts.agents import AgentDefinition


def _store(database: Database) -> Any:
    return importlib.import_module("state.definitions").Definitions(database)


async def current(database: Database, name: str) -> AgentDefinition:
    """The agent of this name as it is now.

    Raises:
        UnknownAgentError: there is none; names those there are.
    """
    return cast("AgentDefinition", await _store(database).current(name))


async def by_hash(database: Database, definition_hash: str) -> AgentDefinition:
    """The definition of this content, however old."""
    return cast("AgentDefinition", await _store(database).by_hash(definition_hash))


async def all_current(database: Database) -> tuple[AgentDefinition, ...]:
    """Every agent as it is now, by name."""
    return tuple(await _store(database).all_current())
