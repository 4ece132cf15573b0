"""An outage of the whole provider, switched on and off: every call fails, or nobody can connect."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from devstack.simulated_provider.faults import Fault, FaultKind, RetryAfterForm
from workflows.contracts.messages import Frozen

LABEL = "outage"
"""How the journal calls what an outage refused."""


class Outage(Frozen):
    """What fails, and for how long.

    Args:
        kind: the error that every call is answered with; `unreachable` stops listening, so that connecting is refused. Calls in
            the air then end as if nothing had happened, and no control request gets through before `for_s` is over.
        model: only calls of this model; `*` and `?` are wildcards. Means nothing for `unreachable`.
        for_s: seconds; None until it is ended.
    """

    kind: Literal["unavailable", "server_error", "overloaded", "quota", "unreachable"] = "unavailable"
    model: str = "*"
    for_s: float | None = Field(default=None, gt=0)


@dataclass(slots=True)
class OutageSwitch:
    """The outage in force, if any."""

    outage: Outage | None = None
    refused: int = 0
    """Calls that were answered with its error."""
    _until: float | None = None

    def on(self, outage: Outage) -> None:
        """Begin an outage, in place of the one that is in force."""
        self.outage = outage
        self._until = None if outage.for_s is None else time.monotonic() + outage.for_s

    def off(self) -> None:
        """End it."""
        self.outage = self._until = None

    def fault(self, model: str) -> Fault | None:
        """What a call of the model is answered with, if it is one of those that fail."""
        if self._until is not None and time.monotonic() >= self._until:
            self.off()
        if self.outage is None or self.outage.kind == "unreachable" or not fnmatchcase(model, self.outage.model):
            return None
        self.refused += 1
        return Fault(kind=FaultKind(self.outage.kind), name=LABEL, retry_after_form=RetryAfterForm.NONE)
