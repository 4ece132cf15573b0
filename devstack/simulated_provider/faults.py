"""Faults by rule: which request is answered with which trouble."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from random import Random

from pydantic import Field

from devstack.simulated_provider.policy import SimulatedRequest
from workflows.contracts.messages import Frozen


class FaultKind(StrEnum):
    """The troubles that the simulated provider can make, each with the body and headers that the real one sends."""

    RATE_LIMITED = "rate_limited"
    QUOTA = "quota"
    BAD_KEY = "bad_key"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    BAD_REQUEST = "bad_request"
    TOO_LARGE = "too_large"
    CONTEXT_TOO_LONG = "context_too_long"
    REQUEST_TIMEOUT = "request_timeout"
    CONFLICT = "conflict"
    SERVER_ERROR = "server_error"
    UNAVAILABLE = "unavailable"
    OVERLOADED = "overloaded"
    OVERLOADED_IN_STREAM = "overloaded_in_stream"
    RATE_LIMITED_IN_STREAM = "rate_limited_in_stream"
    STREAM_STOPS = "stream_stops"
    STREAM_BREAKS = "stream_breaks"
    STREAM_ENDS_EARLY = "stream_ends_early"
    MALFORMED_ARGUMENTS = "malformed_arguments"
    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    BATCH_EXPIRES = "batch_expires"
    BATCH_ANSWER_LOST = "batch_answer_lost"
    BATCH_ANSWER_HELD = "batch_answer_held"


ERROR_IN_STREAM = frozenset({FaultKind.OVERLOADED_IN_STREAM, FaultKind.RATE_LIMITED_IN_STREAM})
CUT_STREAM = frozenset({FaultKind.STREAM_STOPS, FaultKind.STREAM_BREAKS, FaultKind.STREAM_ENDS_EARLY})
CHANGES_ANSWER = frozenset({FaultKind.MALFORMED_ARGUMENTS, FaultKind.REFUSAL, FaultKind.TRUNCATED})
LOSES_SUBMISSION = frozenset({FaultKind.BATCH_ANSWER_LOST, FaultKind.BATCH_ANSWER_HELD})
"""The batch is taken in and worked on, but its sender never hears of it: the connection breaks, or nothing comes."""

_ON_CALLS = frozenset({FaultKind.MALFORMED_ARGUMENTS})
_BEFORE_ANSWER = frozenset(FaultKind) - _ON_CALLS - LOSES_SUBMISSION - {FaultKind.BATCH_EXPIRES}


class RetryAfterForm(StrEnum):
    """How the time to wait is told: as seconds, as milliseconds in a header of its own, as an HTTP date, or not at all."""

    SECONDS = "seconds"
    MS = "ms"
    DATE = "date"
    NONE = "none"


class Fault(Frozen):
    """A rule. A request fires it when all that is given fits; of several rules the first that fits fires.

    Args:
        kind: the trouble.
        name: how the journal calls it; the kind if not given.
        model: only this model; `*` and `?` are wildcards.
        contains: only conversations (instructions included) that hold this text.
        key: only requests whose API key ends so; at most four characters.
        nth: only the nth request, from 1, of those that fit the model, the text and the key.
        probability: fire by chance, drawn from `seed`.
        count: fire at most so often.
        retry_after_s: seconds that the client is told to wait, where the kind tells any.
        after_events: for faults in the stream, the events of the answer that are sent before.
    """

    kind: FaultKind
    name: str = ""
    model: str = "*"
    contains: str = ""
    key: str = Field(default="", max_length=4)
    nth: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int = 0
    count: int | None = Field(default=None, ge=1)
    retry_after_s: float = Field(default=1.0, ge=0)
    retry_after_form: RetryAfterForm = RetryAfterForm.SECONDS
    after_events: int = Field(default=2, ge=0)

    @property
    def label(self) -> str:
        """What the journal calls it."""
        return self.name or self.kind.value


@dataclass(slots=True)
class _Armed:
    fault: Fault
    random: Random
    seen: int = 0
    fired: int = 0

    def fits(self, request: SimulatedRequest, has_calls: bool, key: str) -> bool:
        fault = self.fault
        if not key.endswith(fault.key):
            return False
        if fault.kind is FaultKind.MALFORMED_ARGUMENTS and not has_calls:
            return False
        if not fnmatchcase(request.model, fault.model):
            return False
        return not fault.contains or _holds(request, fault.contains)

    def fires(self) -> bool:
        """Count a request that fits, and decide."""
        fault = self.fault
        self.seen += 1
        if fault.nth is not None and self.seen != fault.nth:
            return False
        if fault.count is not None and self.fired >= fault.count:
            return False
        if fault.probability < 1 and self.random.random() >= fault.probability:
            return False
        self.fired += 1
        return True


def _holds(request: SimulatedRequest, text: str) -> bool:
    return text in request.system or any(
        text in message.text or any(text in call.arguments for call in message.tool_calls) for message in request.messages
    )


@dataclass(slots=True)
class FaultTable:
    """The rules in force, with how often each one fired."""

    _armed: list[_Armed] = field(default_factory=list)

    def add(self, fault: Fault) -> None:
        """Put a rule behind the others."""
        self._armed.append(_Armed(fault, Random(fault.seed)))  # noqa: S311  reproducible chance, not a secret

    def clear(self) -> None:
        """Forget all rules."""
        self._armed.clear()

    def fired(self) -> list[tuple[Fault, int]]:
        """Each rule with the number of times it fired."""
        return [(armed.fault, armed.fired) for armed in self._armed]

    def before_answer(self, request: SimulatedRequest, key: str = "") -> Fault | None:
        """The first rule that fires before the model is asked, by a request with this end of a key."""
        return self._first(request, _BEFORE_ANSWER, key=key)

    def on_answer(self, request: SimulatedRequest) -> Fault | None:
        """The first rule that fires on an answer with tool calls."""
        return self._first(request, _ON_CALLS, has_calls=True)

    def on_submission(self, request: SimulatedRequest) -> Fault | None:
        """The first rule that fires on a batch that is handed in, by the first of its requests."""
        return self._first(request, LOSES_SUBMISSION)

    def in_batch(self, request: SimulatedRequest) -> Fault | None:
        """The first rule that fires on a request of a batch when its turn has come."""
        return self._first(request, _BEFORE_ANSWER | {FaultKind.BATCH_EXPIRES})

    def _first(self, request: SimulatedRequest, kinds: frozenset[FaultKind], *, has_calls: bool = False, key: str = "") -> Fault | None:
        for armed in self._armed:
            if armed.fault.kind in kinds and armed.fits(request, has_calls, key) and armed.fires():
                return armed.fault
        return None
