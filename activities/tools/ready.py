"""A tool made ready: all that it needs is there, so that from here on only the tool itself can fail."""

from __future__ import annotations

from typing import Any, Protocol

from workflows.contracts.tools import ToolContext


class StillRunningError(TimeoutError):
    """The tool's time is over, and it cannot be stopped."""


class Ready(Protocol):
    """What `run_tool` asks of every kind of tool."""

    @property
    def can_check(self) -> bool:
        """Whether the tool can say itself what became of an earlier attempt."""
        ...

    def read(self, raw: str) -> dict[str, Any]:
        """The call's arguments from the JSON text that the model wrote.

        Raises:
            ArgumentsError: they do not fit.
        """
        ...

    def argument(self, arguments: dict[str, Any], name: str) -> Any:
        """One of the arguments, by the name that the model knows it by; None when it was left out."""
        ...

    def known(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as hooks see them: defaults for those that were left out."""
        ...

    async def call(self, arguments: dict[str, Any], context: ToolContext) -> Any:
        """What the tool returns, or whatever it raises."""
        ...

    async def check(self, arguments: dict[str, Any], context: ToolContext) -> Any:
        """The result of an earlier attempt if it did its work, else None."""
        ...
