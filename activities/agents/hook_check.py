"""Holds hooks against the tools that the folders define: a guard for a tool that is not there would guard nothing, silently."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from workflows.contracts.hooks import EVERY_TOOL, Hook
from workflows.contracts.signatures import closest, wrong


def checked(hooks: Iterable[Hook], tools: Collection[str], provided: Collection[Any]) -> tuple[Hook, ...]:
    """The hooks, in order.

    Raises:
        DefinitionError: one names a tool that no folder has, or wants what nobody provides.
    """
    found = tuple(hooks)
    for hook in found:
        if hook.tool != EVERY_TOOL and hook.tool not in tools:
            raise wrong(hook.function, hook.when, f"there is no tool {hook.tool!r}", closest(hook.tool, tools))
        for wanted in hook.signature.provided.values():
            if wanted not in provided:
                name = getattr(wanted, "__qualname__", str(wanted))
                problem = f"wants a {name}, which nobody provides"
                raise wrong(hook.function, "parameters", problem, "Write an @provide function that yields one")
    return found
