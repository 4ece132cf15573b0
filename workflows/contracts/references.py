"""Holds what a tool's specification refers to against its arguments and its effect: keys, conditions, tags."""

from __future__ import annotations

from workflows.contracts import conditions, tags
from workflows.contracts.agents import Effect, ToolSpec
from workflows.contracts.errors import DefinitionError
from workflows.contracts.redaction import is_secret_name
from workflows.contracts.signatures import closest


def wrong_references(spec: ToolSpec) -> list[tuple[str, str, str]]:
    """(field, problem, remedy) for each field that does not fit the tool's arguments or its effect."""
    known = list(spec.parameters.get("properties", {}))
    found: list[tuple[str, str, str]] = []
    if spec.key is not None and spec.key not in known:
        found.append(("key", f"no argument is called `{spec.key}`", closest(spec.key, known)))
    if spec.key is not None and spec.effect is Effect.PURE:
        found.append(("key", "a pure tool has no effect that a key could name", "Give effect: once or idempotent, or leave the key out"))
    if spec.key is not None and is_secret_name(spec.key):
        found.append(("key", "names a secret, which is blacked out before the ledger sees it", "Name an argument that may be written down"))
    if spec.undo and spec.effect is Effect.PURE:
        found.append(("undo", "a pure tool has no effect that could be undone", "Give effect: once or idempotent, or leave undo out"))
    found += _wrong_tags(spec, known)
    if spec.retries and spec.effect is Effect.ONCE:
        found.append(("retries", "a tool with effect once is never run again by itself", "Leave retries out, or give effect: idempotent"))
    if isinstance(spec.approve, str):
        try:
            names = conditions.parse(spec.approve).names
        except DefinitionError as error:
            return [*found, ("approve", str(error), "Or write True to ask always")]
        found += [("approve", f"no argument is called `{n}`", closest(n, known)) for n in sorted(names) if n not in known]
    return found


def _wrong_tags(spec: ToolSpec, known: list[str]) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    if spec.invalidates and spec.effect is Effect.PURE:
        problem = "a pure tool changes nothing that could make answers old"
        found.append(("invalidates", problem, "Give effect: once or idempotent, or leave invalidates out"))
    for tag in spec.invalidates:
        if tags.unreadable(tag):
            found.append(("invalidates", f"the tag {tag!r} cannot be read", "Write it like orders:{order_id}"))
            continue
        for name in tags.places(tag):
            if name not in known and name not in tags.CALLERS:
                found.append(("invalidates", f"no argument is called `{name}`", closest(name, [*known, *tags.CALLERS])))
            elif name in known and name not in spec.parameters.get("required", ()):
                found.append(("invalidates", f"the argument `{name}` may be left out", "Name one that is required"))
            elif is_secret_name(name):
                found.append(("invalidates", f"`{name}` names a secret", "Name an argument that may be written down"))
    return found
