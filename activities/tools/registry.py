"""The tools that a worker has, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from activities.tools.dependencies import Dependencies
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.hooks import Hook
from workflows.contracts.tools import Provider, Tool

__all__ = ["Dependencies", "Toolbox"]


class Toolbox:
    """Function tools by name, and what they are given. A new set can be taken over while calls are running."""

    def __init__(
        self, tools: Mapping[str, Tool[..., Any]] | None = None, dependencies: Dependencies | None = None, hooks: Iterable[Hook] = ()
    ) -> None:
        self._tools = dict(tools or {})
        self._hooks = tuple(hooks)
        self.dependencies = dependencies or Dependencies(())

    def take(self, tools: Mapping[str, Tool[..., Any]], providers: Iterable[Provider], hooks: Iterable[Hook] = ()) -> None:
        """Serve these from now on; calls that run end with what they began with."""
        self.dependencies.take(providers)
        self._tools = dict(tools)
        self._hooks = tuple(hooks)

    def hooks(self, tool: str) -> tuple[Hook, ...]:
        """The hooks that look at a tool's calls, in the order in which they are asked."""
        return tuple(hook for hook in self._hooks if hook.is_for(tool))

    def function(self, name: str) -> Tool[..., Any]:
        """The tool's function.

        Raises:
            StepError: this worker does not have it; another one may, so the call is tried again.
        """
        found = self._tools.get(name)
        if found is None:
            raise StepError(
                f"This worker has no tool {name!r}: start one with the --agents folder that defines it.",
                failure_class=FailureClass.TRANSIENT,
                code="no_such_tool_here",
            )
        return found
