"""The proof at the end of the demo, from books that are kept apart: the provider's, the ledger, the audit record, the shop's own tables."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

HANDOVER_S = 1.0
"""A worker that dies may have had an answer in its hands, not yet in the ledger: the provider calls it delivered. An answer
that ended longer than this before the kill is no such case."""

REFUND_LIMIT_USD = Decimal(50)
"""Above it a refund waits for a yes: as refunds.yaml says."""

_ENDED_WELL = "completed"
_PARKED = frozenset({"parked", "waiting_approval"})
_MAY_BE_BILLED = frozenset({"recorded", "superseded", "unknown"})


@dataclass(frozen=True, slots=True)
class TicketRun:
    """What became of a ticket; `status` is the run's, None when there is no run."""

    ticket_id: str
    run_id: str | None
    status: str | None


@dataclass(frozen=True, slots=True)
class BilledCall:
    """A call that the provider charges for, from its journal. Times are seconds since the epoch; None is not finished."""

    key: str
    received_at: float
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row of the ledger: one attempt of the model call (run, step)."""

    run_id: str
    step: int
    state: str
    started_at: float
    finished_at: float | None
    cost_usd: Decimal

    @property
    def key(self) -> str:
        """What the provider was given as the call's idempotency key."""
        return f"{self.run_id}:{self.step}"


@dataclass(frozen=True, slots=True)
class ShopRefund:
    """A row of the shop's refunds."""

    order_id: str
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class ShopChange:
    """A row of the shop's changes."""

    kind: str
    idempotency_key: str


@dataclass(frozen=True, slots=True)
class PeopleBooks:
    """What people were asked and what they ordered: the inbox, the audit record, the dead letters."""

    asked: int = 0
    approved: int = 0
    rejected: int = 0
    letters_filed: int = 0
    letters_redriven: int = 0
    audit_rows: int = 0
    refunds_without_a_yes: int = 0
    """Rows of the shop above the limit whose run has no yes in the audit record."""
    ordered: int = 0
    """Orders that the people of the play know that they gave."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything the proof looks at."""

    tickets: Sequence[str]
    runs: Sequence[TicketRun]
    billed: Sequence[BilledCall] | None
    """None with a real provider, which shows nobody its journal: then the ledger stands alone."""
    ledger: Sequence[Attempt]
    refunds: Sequence[ShopRefund]
    changes: Sequence[ShopChange]
    kills: Sequence[float]
    """When a worker was killed, in seconds since the epoch."""
    people: PeopleBooks = PeopleBooks()


@dataclass(frozen=True, slots=True)
class Proof:
    """The demo's last line."""

    tickets: int
    finished: int
    parked: int
    lost: int
    answers_paid_twice: int
    calls_in_the_air_at_kill: int
    refunds_done_twice: int
    kills: int
    recovery_s: float | None
    cost_usd: float
    unknown_usd: float
    model_calls: int
    """Answers that are recorded."""
    billed_calls: int | None
    billed_calls_not_in_ledger: int
    """Spend dropped from the books."""
    refunds: int
    other_effects_done_twice: int
    approvals_asked: int
    approvals_given: int
    approvals_rejected: int
    refunds_without_a_yes: int
    letters_filed: int
    letters_redriven: int
    audit_rows: int
    orders_missing_in_audit: int

    @property
    def broken(self) -> tuple[str, ...]:
        """The promises that did not hold, in words."""
        promises = {
            f"{self.lost} tickets were lost": self.lost,
            f"{self.answers_paid_twice} model answers were paid twice": self.answers_paid_twice,
            f"{self.billed_calls_not_in_ledger} billed calls are missing from the ledger": self.billed_calls_not_in_ledger,
            f"{self.refunds_done_twice} refunds were done twice": self.refunds_done_twice,
            f"{self.other_effects_done_twice} other changes were done twice": self.other_effects_done_twice,
            f"{self.refunds_without_a_yes} refunds above the limit were made without a yes": self.refunds_without_a_yes,
            f"{self.orders_missing_in_audit} orders are missing from the audit record": self.orders_missing_in_audit,
        }
        return tuple(words for words, count in promises.items() if count)

    @property
    def exit_code(self) -> int:
        """1 when a promise is broken, else 0."""
        return 1 if self.broken else 0

    def as_json(self) -> dict[str, Any]:
        """All fields, and what is broken."""
        return asdict(self) | {"broken": list(self.broken)}


def judge(evidence: Evidence) -> Proof:
    """Hold the books against each other."""
    statuses = {run.ticket_id: run.status for run in evidence.runs}
    finished = sum(statuses.get(ticket) == _ENDED_WELL for ticket in evidence.tickets)
    parked = sum(statuses.get(ticket) in _PARKED for ticket in evidence.tickets)
    in_the_air, people = _in_the_air(evidence), evidence.people
    twice, not_in_ledger = _paid_twice(evidence)
    return Proof(
        tickets=len(evidence.tickets),
        finished=finished,
        parked=parked,
        lost=len(evidence.tickets) - finished - parked,
        answers_paid_twice=twice,
        calls_in_the_air_at_kill=len(in_the_air),
        refunds_done_twice=len(evidence.refunds) - len({refund.order_id for refund in evidence.refunds}),
        kills=len(evidence.kills),
        recovery_s=_recovery_s(evidence, in_the_air),
        cost_usd=float(sum((attempt.cost_usd for attempt in evidence.ledger), Decimal(0))),
        unknown_usd=float(sum((a.cost_usd for a in evidence.ledger if a.state == "unknown"), Decimal(0))),
        model_calls=sum(attempt.state == "recorded" for attempt in evidence.ledger),
        billed_calls=None if evidence.billed is None else len(evidence.billed),
        billed_calls_not_in_ledger=not_in_ledger,
        refunds=len(evidence.refunds),
        other_effects_done_twice=_repeats((change.kind, change.idempotency_key) for change in evidence.changes),
        approvals_asked=people.asked,
        approvals_given=people.approved,
        approvals_rejected=people.rejected,
        refunds_without_a_yes=people.refunds_without_a_yes,
        letters_filed=people.letters_filed,
        letters_redriven=people.letters_redriven,
        audit_rows=people.audit_rows,
        orders_missing_in_audit=max(0, people.ordered - people.audit_rows),
    )


def _in_the_air(evidence: Evidence) -> list[Attempt]:
    """Attempts that a kill cut off: begun before it, and charged as unknown spend because their answer reached nobody."""
    return [
        attempt
        for attempt in evidence.ledger
        if attempt.state == "unknown" and any(_spans(attempt.started_at, attempt.finished_at, kill) for kill in evidence.kills)
    ]


def _spans(begun: float, ended: float | None, moment: float) -> bool:
    return begun <= moment and (ended is None or ended >= moment - HANDOVER_S)


def _paid_twice(evidence: Evidence) -> tuple[int, int]:
    """(answers paid more than once without a kill to explain it, billed calls of which the ledger knows nothing).

    Of all calls under one key one is the answer that counts. Each other one must have been in the air at a kill, and the
    ledger must hold an attempt of that key as unknown spend for it.
    """
    ledger: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in evidence.ledger:
        if attempt.state in _MAY_BE_BILLED:
            ledger[attempt.key].append(attempt)
    calls: dict[str, list[tuple[float, float | None]]] = defaultdict(list)
    if evidence.billed is None:
        for key, attempts in ledger.items():
            calls[key] = [(attempt.started_at, attempt.finished_at) for attempt in attempts]
    else:
        for call in evidence.billed:
            calls[call.key].append((call.received_at, call.finished_at))
    twice = not_in_ledger = 0
    for key, times in calls.items():
        explained = min(
            sum(any(_spans(*call, kill) for kill in evidence.kills) for call in times),
            sum(attempt.state == "unknown" for attempt in ledger[key]),
        )
        twice += max(0, len(times) - 1 - explained)
        not_in_ledger += max(0, len(times) - len(ledger[key]))
    return twice, not_in_ledger


def _recovery_s(evidence: Evidence, in_the_air: Sequence[Attempt]) -> float | None:
    """Seconds from a kill until the last of the calls that it cut off was taken up again; with none cut off, until the next call."""
    waits: list[float] = []
    for kill in evidence.kills:
        keys = {attempt.key for attempt in in_the_air if _spans(attempt.started_at, attempt.finished_at, kill)}
        later = [attempt for attempt in evidence.ledger if attempt.started_at > kill]
        again = [min((a.started_at for a in later if a.key == key), default=None) for key in keys]
        taken_up = [moment for moment in again if moment is not None]
        if not keys and later:
            taken_up = [min(attempt.started_at for attempt in later)]
        if taken_up:
            waits.append(max(taken_up) - kill)
    return round(max(waits), 2) if waits else None


def _repeats(keys: Iterable[object]) -> int:
    """How many of the keys are there once more than once."""
    return sum(times - 1 for times in Counter(keys).values())
