"""How one breaker, or the worst of several, stands for a call that wants to go."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from state.breakers import Breaker
from workflows.contracts.errors import FailureClass

FORCED_WAIT_S: Final = 60.0
"""What is told as the wait for a breaker that a person holds open: nobody knows it."""

StandingState = Literal["closed", "open", "cooling", "probe_due"]
_WORST: Final = {"closed": 0, "probe_due": 1, "cooling": 2, "open": 3}


@dataclass(frozen=True, slots=True)
class Standing:
    """The worst of what a call depends on. `wait_s` is how long until it is worth asking again; `due` lists every probe that is due."""

    scope: str = ""
    state: StandingState = "closed"
    wait_s: float = 0.0
    reason: str = ""
    due: tuple[str, ...] = ()
    failure_class: FailureClass | None = None
    """Of the failure that opened it; None when a person did."""

    @property
    def free(self) -> bool:
        """A call may go, without a probe."""
        return self.state == "closed"


@dataclass(frozen=True, slots=True)
class Copy:
    """A breaker as this worker last saw it, and when."""

    breaker: Breaker
    seen_at: float

    def left(self, seconds: float | None) -> float:
        """What is left now of seconds that were told when it was seen; never below zero."""
        return 0.0 if seconds is None else max(0.0, seconds - (time.monotonic() - self.seen_at))

    def standing(self) -> Standing:
        """Whether a call may go."""
        one = self.breaker
        if one.forced == "open":
            return Standing(one.scope, "open", FORCED_WAIT_S, f"held open by {one.forced_by}: {one.forced_reason}")
        if one.forced != "closed" and one.state != "closed":
            wait_s = self.left(one.open_for_s if one.state == "open" else one.probe_for_s)
            reason = one.reason or "too many failures"
            if one.state == "half_open":
                reason += "; a probe is in the air"
            due = (one.scope,) if wait_s == 0 else ()
            return Standing(one.scope, "probe_due" if due else "open", wait_s, reason, due, class_of(one.failure_class))
        cooling_s = self.left(one.cooling_for_s)
        return cooling(one.scope, cooling_s) if cooling_s > 0 else Standing(one.scope)

    def troubled(self, window_s: float) -> bool:
        """Whether good calls count: it is not closed, or failed a moment ago."""
        one = self.breaker
        return one.state != "closed" or (one.failed_ago_s is not None and one.failed_ago_s + time.monotonic() - self.seen_at < window_s)


def cooling(scope: str, wait_s: float) -> Standing:
    """A scope whose other side asked for no call for a while."""
    return Standing(scope, "cooling", wait_s, "the provider asked to wait", failure_class=FailureClass.THROTTLED)


def class_of(name: str | None) -> FailureClass | None:
    """The class of this name; None for one that this version does not know."""
    return next((one for one in FailureClass if one == name), None)


def worst(standings: Iterable[Standing]) -> Standing:
    """The one that keeps a call longest, with every probe that is due among them."""
    found = Standing()
    due: tuple[str, ...] = ()
    for one in standings:
        due += one.due
        if (_WORST[one.state], one.wait_s) > (_WORST[found.state], found.wait_s):
            found = one
    return replace(found, due=due)
