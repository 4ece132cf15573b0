"""The limiter's words: buckets, what a call asks of them, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from workflows.contracts.inference import Priority


class BucketKind(IntEnum):
    """How a limit counts; the numbers stand in the database."""

    RATE = 1
    """GCRA: units a period, in every window."""
    WINDOW = 2
    """A count that begins anew with the UTC day."""
    CONCURRENCY = 3
    """Calls in the air."""


class Measure(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    INPUT_TOKENS = "input_tokens"
    OUTPUT_TOKENS = "output_tokens"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Bucket:
    """One limit, as it is configured; `limit` is in units a period, headroom not yet taken off."""

    name: str
    kind: BucketKind
    measure: Measure
    limit: float
    period_s: float = 60.0
    headroom: float = 0.0

    @property
    def usable(self) -> float:
        """The most that one call may ever ask of it."""
        return self.limit if self.kind is BucketKind.CONCURRENCY else self.limit * (1 - self.headroom)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a call takes from one bucket."""

    bucket: Bucket
    amount: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A call's size before it is made."""

    input_tokens: int
    max_output_tokens: int


@dataclass(frozen=True, slots=True)
class Alternative:
    """One model and key that could serve; `penalty_s` is the wait it is worth to avoid it."""

    label: str
    demands: tuple[Demand, ...]
    penalty_s: float = 0.0
    model: str = ""
    """PROVIDER:MODEL, for what is learned from usage."""
    estimate: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One call's question; the ticket (`run:step`) keeps its place and its slot."""

    ticket: str
    priority: Priority
    alternatives: tuple[Alternative, ...]
    horizon_s: float
    passed_by_s: float


@dataclass(slots=True, eq=False)
class Lease:
    """What a call has taken. It ends once: by `settle` or `give_back`."""

    alternative: Alternative
    slot_at: float
    """Seconds since the epoch, by the database's clock."""
    held: bool = True
    """False: the slot lies further ahead than callers wait in process; ask again with the same ticket."""
    local: bool = False
    """Taken from this worker's share, with the database away."""
    unseen: bool = True
    """The provider has not answered yet: it may not count the call."""
    open: bool = True


@dataclass(frozen=True, slots=True)
class Slot:
    """The call may go out in `delay_s`, which may be 0."""

    index: int
    delay_s: float
    expected_at: float
    lease: Lease
    limit: str = ""
    """The limit that made it wait."""
    told_s: float | None = None
    """The wait that was told when the ticket was first asked for; None: there was none."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """No slot is near: ask again in `wait_s`, which is the wait expected."""

    index: int
    wait_s: float
    limit: str
    told_s: float | None = None
