"""Options that commands share."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value on standard output, and nothing else there.")]
Tenant = Annotated[str, Parameter(help="Whose run it is; idempotency keys are per tenant.")]


def person() -> str:
    """Who sits at this terminal, for the record of decisions."""
    return os.environ.get("USER") or os.environ.get("LOGNAME") or "command line"
