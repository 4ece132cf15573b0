"""people.yaml: which groups of people there are, and how they are told that something waits for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import Field, model_validator

from workflows.contracts.messages import Frozen

Person = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^@\s]\S*( \S+)*$")]
GroupName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class NotifySettings(Frozen):
    """Where a new question, a reminder, an escalation or a dead letter is told of; both, when both are given."""

    webhook: str | None = Field(default=None, pattern=r"^https?://[^\s]+$")
    """A URL that a JSON object is posted to, with the header Idempotency-Key."""
    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    """A program that gets the same object on standard input."""
    attempts: int = Field(default=12, ge=1, le=100)
    """How often a delivery is tried, with growing pauses, before it is given up and reported."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.webhook is None and self.command is None:
            raise ValueError("give webhook, or command")
        return self


class PeopleSettings(Frozen):
    """All of it."""

    groups: dict[GroupName, Annotated[tuple[Person, ...], Field(min_length=1)]] = {}
    notify: NotifySettings | None = None

    def resolve(self, named: Iterable[str]) -> tuple[str, ...]:
        """People for groups, each once. A group that nobody knows stays as it is: then nobody is in it, rather than everybody."""
        people = [person for name in named for person in (self.groups.get(name[1:], (name,)) if name.startswith("@") else (name,))]
        return tuple(dict.fromkeys(people))

    def unknown(self, named: Iterable[str]) -> tuple[str, ...]:
        """The groups among the names that are not known here."""
        return tuple(name for name in named if name.startswith("@") and name[1:] not in self.groups)
