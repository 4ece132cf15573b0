"""Options that the commands for dead letters share: which of them, and how orders are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from client.command_line.options import spoken_s

State = Literal["open", "redriven", "skipped", "aborted", "withdrawn", "all"]
Limit = Annotated[list[str] | None, Parameter(negative="")]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which dead letters."""

    class_: Annotated[str | None, Parameter(name="--class")] = None
    """Only of this failure class, as in quota or unknown_outcome."""
    agent: str | None = None
    """Only this agent's."""
    tenant: str | None = None
    """Only this tenant's."""
    model: str | None = None
    """Only of this tier or model, with or without its provider."""
    user: str | None = None
    """Only of this user's runs."""
    tool: str | None = None
    """Only calls of this tool."""
    text: str | None = None
    """Only those whose cause says this."""
    run: str | None = None
    """Only this run's."""
    older_than: str | None = None
    """Only those parked for longer than this, as in 90m, 24h, 7d."""
    younger_than: str | None = None
    """Only those parked for less than this."""

    def options(self) -> dict[str, Any]:
        """For the client; what is not chosen is left out."""
        found: dict[str, Any] = {
            "failure_class": self.class_,
            "agent": self.agent,
            "tenant": self.tenant,
            "model": self.model,
            "user": self.user,
            "tool": self.tool,
            "text": self.text,
            "run_id": self.run,
            "older_than_s": spoken_s("older-than", self.older_than),
            "younger_than_s": spoken_s("younger-than", self.younger_than),
        }
        return {name: value for name, value in found.items() if value is not None}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Manner:
    """How orders are given."""

    all: Flag = False
    """Every open dead letter."""
    rate: float = 20.0
    """How many orders a second at most."""
    dry_run: Flag = False
    """Only tell which would be ordered."""
    yes: Flag = False
    """Do not ask, however many they are."""
    reason: str = ""
    """Why, for the record."""
    by: str | None = None
    """Who says so; you, if left out."""


NOTHING_CHOSEN, PLAIN = Chosen(), Manner()
