"""The tools that a worker has, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from activities.tools.dependencies import Dependencies
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.tools import Provider, Tool

__all__ = ["Dependencies", "Toolbox"]


class Toolbox:
    """Function tools by name, and what they are given. A new set can be taken over while calls are running."""

    def __init__(self, tools: Mapping[str, Tool[..., Any]] | None = None, dependencies: Dependencies | None = None) -> None:
        self._tools = dict(tools or {})
        self.dependencies = dependencies or Dependencies(())

    def take(self, tools: Mapping[str, Tool[..., Any]], providers: Iterable[Provider]) -> None:
        """Serve these from now on; calls that run end with what they began with."""
        self.dependencies.take(providers)
        self._tools = dict(tools)

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
