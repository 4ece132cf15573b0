"""What became of an order, as the run notes it."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.contracts.people import Verdict

ACCEPTED = Verdict(outcome="accepted")


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of an order, about one call or one dead letter, or about the run."""

    verdict: Verdict
    call_id: str | None = None
    step: int | None = None
    version: int | None = None
    closes: bool = False
    letter: int | None = None


def refused(reason: str) -> Judged:
    """An order that is not carried out, about the run as a whole."""
    return Judged(Verdict(outcome="refused", reason=reason))
