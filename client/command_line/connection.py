"""The connection that commands work with: what libraries have to say goes to standard error, traces where `OTEL_*` sends them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from client.orchestrator import Orchestrator
from client.settings import Settings
from telemetry.setup import open_telemetry

FLUSH_S = 2.0
"""How long a command waits for a collector before it ends without it."""


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Orchestrator]:
    """An orchestrator by the environment's settings, for the length of one command.

    Raises:
        SettingsError: nothing says where the servers are, or they refuse us.
        UnavailableError: Temporal or the database does not answer.
    """
    settings = Settings.from_environment()
    telemetry = open_telemetry(service_name="holdfast-cli", log_format=settings.log_format, log_level="WARNING")
    try:
        async with Orchestrator.connect(settings, telemetry=telemetry) as holdfast:
            yield holdfast
    finally:
        await telemetry.aclose(FLUSH_S)
