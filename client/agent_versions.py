"""Another version of an agent for one run: as it is now, as it once was, with other instructions, another model, other limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from client.backend import Backend
from workflows.contracts import conditions
from workflows.contracts.agents import AgentDefinition, Limits, PinnedAgent, ToolSpec
from workflows.contracts.errors import ArgumentsError, InvalidInputError
from workflows.contracts.previews import one_line
from workflows.contracts.redaction import redact

CURRENT: Final = "current"
EDITED: Final = "+edited"
"""What an agent's version ends with, when a person has given it other instructions for some runs."""


async def another(backend: Backend, pinned: PinnedAgent, *, version: str | None, instructions: str | None) -> PinnedAgent:
    """The pin of an agent by another version, or with other instructions; without both the same.

    Changed instructions are stored as a definition of their own, by content hash; which one is current is not touched. The run's
    limits stay where they differ from its definition's.

    Args:
        backend: the client's means.
        pinned: what the run has now.
        version: `current`, a version or a definition's hash.
        instructions: in place of the definition's.

    Raises:
        UnknownAgentError: there is no such version; names those there are.
        InvalidInputError: the instructions are empty.
    """
    if version is None and instructions is None:
        return pinned
    definitions = backend.definitions
    old = await definitions.by_hash(pinned.definition_hash)
    new = old
    if version is not None:
        new = await (definitions.current(pinned.name) if version == CURRENT else definitions.version(pinned.name, version))
    if instructions is not None and instructions != new.instructions:
        new = _instructed(new, instructions)
        await definitions.keep(new)
    limits = new.limits if pinned.limits == old.limits else pinned.limits
    return new.pin().model_copy(update={"limits": limits})


def changed_limits(old: Limits, given: Limits | Mapping[str, Any] | None) -> Limits:
    """The limits with those that are given changed; a `Limits` takes the place of all.

    Raises:
        InvalidInputError: there is no such limit, or a value does not fit it.
    """
    if given is None or isinstance(given, Limits):
        return given or old
    unknown = [name for name in given if name not in Limits.model_fields]
    if unknown:
        raise InvalidInputError(f"limits: there is no limit {unknown[0]!r}; there are {', '.join(Limits.model_fields)}.")
    try:
        return Limits.model_validate(old.model_dump() | dict(given))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise InvalidInputError(f"limits: {problem['loc'][0]}: {problem['msg']}.") from error


def checked_arguments(spec: ToolSpec, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Other arguments for a call, as the transcript holds them, and what orchestration knows of them.

    Raises:
        ArgumentsError: they do not fit the tool's schema.
        InvalidInputError: they cannot be written as JSON.
    """
    import jsonschema

    given = dict(arguments)
    try:
        canonical = json.dumps(given, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"arguments cannot be written as JSON: {error}.") from error
    validator = jsonschema.validators.validator_for(spec.parameters, jsonschema.Draft202012Validator)(spec.parameters)
    wrong = next(validator.iter_errors(given), None)
    if wrong is not None:
        where = "/".join(str(part) for part in wrong.absolute_path) or "the arguments"
        raise ArgumentsError(f"The arguments do not fit the schema of {spec.name}: {where}: {wrong.message[:300]}.")
    return canonical, {
        "arguments_hash": hashlib.sha256(canonical.encode(errors="replace")).hexdigest()[:16],
        "preview": one_line(redact(canonical)),
        "needs_approval": conditions.approval_needed(spec, given),
    }


def _instructed(definition: AgentDefinition, instructions: str) -> AgentDefinition:
    if not instructions.strip():
        raise InvalidInputError("instructions are empty: say what the agent shall do, or leave them out.")
    marked = definition.version if definition.version.endswith(EDITED) else definition.version + EDITED
    return definition.model_copy(update={"instructions": redact(instructions), "version": marked})
