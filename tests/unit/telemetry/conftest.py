"""Logging as it was before, after each test."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from telemetry import signals
from telemetry.logs import _Handler


@pytest.fixture(autouse=True)
def _telemetry_as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    sys.excepthook = sys.__excepthook__
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    signals.install(signals.OFF)
    logging.captureWarnings(False)
    root.setLevel(level)
    for handler in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        root.removeHandler(handler)
