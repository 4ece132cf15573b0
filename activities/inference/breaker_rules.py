"""Which breaker a failure counts for: a provider must be reachable, a model must answer, a key must be accepted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from workflows.contracts.errors import FailureClass


class Say(StrEnum):
    """What the end of a call says of one scope."""

    GOOD = "good"
    BAD = "bad"
    REFUSED = "refused"
    """It will not get better by itself: open at once, for longer."""
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Scopes:
    """The scopes that one call depends on. A provider without keys has no key scopes."""

    provider: str
    model: str
    key: str = ""

    def __iter__(self) -> Iterator[str]:
        """The names, the widest first."""
        return iter(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """As in `provider:openai`, `model:openai:gpt-5`, `key:openai/main`, `key:openai/main:gpt-5` (that key for that model)."""
        wide = (f"provider:{self.provider}", f"model:{self.provider}:{self.model}")
        key = f"key:{self.provider}/{self.key}"
        return (*wide, key, f"{key}:{self.model}") if self.key else wide


_NOT_CONNECTED = frozenset({"unreachable", "connection"})
_KEY_REFUSED = frozenset({"401", "authentication_error", "invalid_api_key", "account_deactivated"})
_NOT_ALLOWED = frozenset({"403", "permission_error", "permission_denied"})
_NEVER_ASKED = frozenset({"no_key", "not_unicode", "not_a_stream", "larger_than_limit"})
_ANSWERED = frozenset({FailureClass.THROTTLED, FailureClass.QUOTA, FailureClass.CALLER, FailureClass.CONTEXT, FailureClass.MODEL_BEHAVIOUR})


def key_refused(failure_class: FailureClass, code: str | None) -> bool:
    """Whether the provider does not know the key, or no longer."""
    return failure_class is FailureClass.CALLER and (code or "").lower() in _KEY_REFUSED


def judge(scopes: Sequence[str], failure_class: FailureClass, code: str | None) -> dict[str, Say]:
    """What a failed call says of each of its scopes.

    A provider fails when no connection can be made or it is lost; a model when it answers with an error of its own, too
    late or not to the end; a key when its quota is used up or it is refused. An answer that is the caller's own error
    shows that all of them work; a mistake of ours says nothing.
    """
    code = (code or "").lower()
    narrowest = max(scopes, key=_narrowness, default="")
    return {scope: _say(scope, scope == narrowest, failure_class, code) for scope in scopes}


def cooled(scopes: Sequence[str]) -> str:
    """The scope that a wait is for when the other side asks for one: limits are per model and account."""
    return max(scopes, key=_narrowness)


def _say(scope: str, narrowest: bool, failure_class: FailureClass, code: str) -> Say:
    kind = _kind(scope)
    if failure_class is FailureClass.TRANSIENT:
        return _transient(kind, code)
    if failure_class not in _ANSWERED or code in _NEVER_ASKED:
        return Say.NOTHING
    refused = failure_class is FailureClass.QUOTA or key_refused(failure_class, code)
    if refused:
        # A provider without keys of its own has nothing narrower to set aside than the model.
        closes = kind == "key" or (narrowest and kind != "use")
        return Say.REFUSED if closes else Say.GOOD if kind == "provider" else Say.NOTHING
    if failure_class is FailureClass.CALLER and code in _NOT_ALLOWED:
        return Say.REFUSED if narrowest and kind == "use" else Say.GOOD if kind == "provider" else Say.NOTHING
    return Say.GOOD


def _transient(kind: str, code: str) -> Say:
    if code in _NOT_CONNECTED:
        return Say.BAD if kind == "provider" else Say.NOTHING
    if kind == "model":
        return Say.BAD
    return Say.GOOD if kind == "provider" else Say.NOTHING


def _kind(scope: str) -> str:
    kind, _, rest = scope.partition(":")
    return "use" if kind == "key" and ":" in rest.partition("/")[2] else kind


def _narrowness(scope: str) -> int:
    return {"provider": 0, "model": 1, "key": 2, "use": 3}.get(_kind(scope), 0)
