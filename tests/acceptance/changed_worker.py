"""A worker whose workflow was changed: `python -m tests.acceptance.changed_worker CHANGE --agents PATH`; see tests/replay/changed.py."""

from __future__ import annotations

import os
import sys

import worker
from tests.replay import changed

if __name__ == "__main__":
    worker.WORKFLOWS = (getattr(changed, sys.argv[1]),)
    status = worker.main(sys.argv[2:])
    sys.stdout.flush()
    os._exit(status)
