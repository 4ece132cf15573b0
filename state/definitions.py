"""Agent definitions: kept for ever by content hash, so that a run's pinned one is found whatever was deployed since."""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import structlog

from state.pool import Connection, Database
from workflows.contracts.agents import AgentDefinition
from workflows.contracts.errors import UnknownAgentError

log = structlog.get_logger("holdfast.definitions")

CURRENT_FOR_S = 1.0
"""How long a look at what is current is believed."""
KEPT_BY_HASH = 512
_WANTED = "select d.body, d.definition_hash from current_definitions c join definitions d using (definition_hash)"


@dataclass(frozen=True, slots=True)
class Conflict:
    """The same name and version registered with two contents."""

    name: str
    version: str
    old_hash: str
    new_hash: str
    registered_by: str
    seen_at: datetime


class Definitions:
    """The stored definitions, with a small cache: content never changes under a hash."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_hash: dict[str, AgentDefinition] = {}
        self._current: dict[str, tuple[float, AgentDefinition]] = {}

    async def register(self, definitions: Iterable[AgentDefinition], by: str) -> None:
        """Store definitions and make them current; one with the content of the current one changes nothing."""
        async with self._database.transaction() as connection:
            for definition in sorted(definitions, key=lambda one: one.name):
                await _store(connection, definition)
                await _make_current(connection, definition, by)
        self._current.clear()

    async def keep(self, definition: AgentDefinition) -> None:
        """Store a definition without making it current: runs that are given it find it by its hash."""
        async with self._database.transaction() as connection:
            await _store(connection, definition)

    async def version(self, name: str, version: str) -> AgentDefinition:
        """The newest definition of this name and version, or the one with this hash.

        Raises:
            UnknownAgentError: there is none; names the versions there are.
        """
        rows = await self._database.fetch(
            "select definition_hash, version, body from definitions where name = $1 order by created_at desc, definition_hash", name
        )
        for row in rows:
            if version in (row["version"], row["definition_hash"]):
                return self._remember(row["definition_hash"], row["body"])
        known = ", ".join(dict.fromkeys(row["version"] for row in rows)) or "none"
        raise UnknownAgentError(f"No version or hash {version!r} of agent {name!r} is stored; stored versions are {known}.")

    async def by_hash(self, definition_hash: str) -> AgentDefinition:
        """The definition with this content.

        Raises:
            UnknownAgentError: it was never registered in this database.
        """
        known = self._by_hash.get(definition_hash)
        if known is not None:
            return known
        body = await self._database.fetchval("select body from definitions where definition_hash = $1", definition_hash)
        if body is None:
            raise UnknownAgentError(
                f"No definition {definition_hash} is in this database: is DATABASE_URL the one the run was started with?"
            )
        return self._remember(definition_hash, body)

    async def current(self, name: str) -> AgentDefinition:
        """The agent of this name as it is now, at most a second old.

        Raises:
            UnknownAgentError: there is none; names those there are.
        """
        seen = self._current.get(name)
        if seen is not None and time.monotonic() - seen[0] < CURRENT_FOR_S:
            return seen[1]
        found = await self._database.fetchrow(f"{_WANTED} where c.name = $1", name)
        if found is None:
            raise await self._unknown(name)
        definition = self._remember(found["definition_hash"], found["body"])
        self._current[name] = (time.monotonic(), definition)
        return definition

    async def all_current(self) -> list[AgentDefinition]:
        """Every agent as it is now, by name. Whoever has seen an agent here is not given an older one by `current`."""
        rows = await self._database.fetch(f"{_WANTED} order by c.name")
        found = [self._remember(row["definition_hash"], row["body"]) for row in rows]
        self._current = {definition.name: (time.monotonic(), definition) for definition in found}
        return found

    async def conflicts(self) -> list[Conflict]:
        """Where two workers did not agree, newest first."""
        rows = await self._database.fetch(
            "select name, version, old_hash, new_hash, registered_by, seen_at from definition_conflicts order by seen_at desc"
        )
        return [Conflict(**dict(row)) for row in rows]

    def _remember(self, definition_hash: str, body: str) -> AgentDefinition:
        known = self._by_hash.get(definition_hash)
        if known is None:
            if len(self._by_hash) >= KEPT_BY_HASH:
                self._by_hash.clear()
            known = self._by_hash[definition_hash] = AgentDefinition.model_validate_json(body)
        return known

    async def _unknown(self, name: str) -> UnknownAgentError:
        names = [row["name"] for row in await self._database.fetch("select name from current_definitions order by name")]
        if not names:
            return UnknownAgentError(f"No agent {name!r}: none is registered yet. Start a worker with `holdfast worker --agents PATH`.")
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return UnknownAgentError(f"No agent {name!r}; registered are {', '.join(names)}.{hint}")


async def _store(connection: Connection, definition: AgentDefinition) -> None:
    await connection.execute(
        "insert into definitions (definition_hash, name, version, body) values ($1, $2, $3, $4) on conflict do nothing",
        definition.content_hash(),
        definition.name,
        definition.version,
        definition.model_dump_json(),
    )


async def _make_current(connection: Connection, definition: AgentDefinition, by: str) -> None:
    digest = definition.content_hash()
    before = await connection.fetchrow(
        "select c.definition_hash, d.version from current_definitions c join definitions d using (definition_hash) "
        "where c.name = $1 for update of c",
        definition.name,
    )
    if before is not None and before["definition_hash"] == digest:
        return
    if before is not None and before["version"] == definition.version:
        old = before["definition_hash"]
        log.warning("definition.differs", agent=definition.name, version=definition.version, old=old, new=digest)
        await connection.execute(
            "insert into definition_conflicts (name, version, old_hash, new_hash, registered_by) values ($1, $2, $3, $4, $5) "
            "on conflict (name, version, old_hash, new_hash) do update set seen_at = now(), registered_by = excluded.registered_by",
            definition.name,
            definition.version,
            old,
            digest,
            by,
        )
    await connection.execute(
        "insert into current_definitions (name, definition_hash, registered_by) values ($1, $2, $3) on conflict (name) "
        "do update set definition_hash = excluded.definition_hash, registered_by = excluded.registered_by, registered_at = now()",
        definition.name,
        digest,
        by,
    )
