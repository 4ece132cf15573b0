"""Options that commands share."""

from __future__ import annotations

import os
import re
from typing import Annotated

from cyclopts import Parameter

from workflows.contracts.errors import InvalidInputError

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value on standard output, and nothing else there.")]
Tenant = Annotated[str, Parameter(help="Whose run it is; idempotency keys are per tenant.")]


def person() -> str:
    """Who sits at this terminal, for the record of decisions."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "command line"


_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}


def spoken_s(option: str, text: str | None) -> float | None:
    """A length of time as people write it, as in 90m, 24h, 7d, in seconds; None stays None.

    Raises:
        InvalidInputError: it is none; names the option.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([smhdw])", text.strip())
    if found is None:
        raise InvalidInputError(f"--{option} {text} is no length of time: write it as in 90m, 24h or 7d.")
    return float(found[1]) * _UNITS_S[found[2]]
