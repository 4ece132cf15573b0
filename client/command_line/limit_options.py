"""`--limit NAME=VALUE`, as several commands take it."""

from __future__ import annotations

from collections.abc import Sequence

from workflows.contracts.errors import InvalidInputError


def changed_limits(given: Sequence[str]) -> dict[str, str]:
    """The limits by name.

    Raises:
        InvalidInputError: one is not NAME=VALUE, or there is no such limit.
    """
    from workflows.contracts.agents import Limits

    changed = dict(pair.partition("=")[::2] for pair in given)
    for name, value in changed.items():
        if name not in Limits.model_fields or not value:
            known = ", ".join(Limits.model_fields)
            raise InvalidInputError(f"--limit must be NAME=VALUE with a name of {known}; it is {name}={value}.")
    return changed
