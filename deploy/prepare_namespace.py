"""Make the Temporal namespace, and the search attributes that runs are found by; what is there already stays as it is.

Waits for a server that is still starting. Reads TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and HOLDFAST_RETENTION_DAYS.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import Final

from google.protobuf.duration_pb2 import Duration
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from client.settings import Settings
from client.temporal import connect_temporal
from devstack import search_attributes
from workflows.contracts.errors import HoldfastError, UnavailableError
from workflows.contracts.names import SEARCH_ATTRIBUTES

PATIENCE_S: Final = 120.0
PAUSE_S: Final = 2.0
DEFAULT_RETENTION_DAYS: Final = "30"
NOT_YET: Final = frozenset({RPCStatusCode.UNAVAILABLE, RPCStatusCode.DEADLINE_EXCEEDED, RPCStatusCode.NOT_FOUND})
"""A server answers the first two while it starts, the third until every part of it has heard of a new namespace."""


async def make_namespace(client: Client, retention_days: int) -> bool:
    """Make the client's namespace; returns whether it was missing."""
    request = RegisterNamespaceRequest(
        namespace=client.namespace,
        description="Holdfast's agent runs",
        workflow_execution_retention_period=Duration(seconds=retention_days * 24 * 3600),
    )
    try:
        await client.workflow_service.register_namespace(request)
    except RPCError as error:
        if error.status is RPCStatusCode.ALREADY_EXISTS:
            return False
        raise
    return True


async def prepare(settings: Settings, retention_days: int) -> None:
    """Make what is missing and say what was made."""
    client = await connect_temporal(settings)
    made = await make_namespace(client, retention_days)
    sys.stdout.write(f"namespace {client.namespace}: {'made' if made else 'there already'}\n")
    names = await search_attributes.ensure(client, SEARCH_ATTRIBUTES)
    sys.stdout.write(f"search attributes made: {', '.join(names) or 'none, all are there already'}\n")


async def insist(settings: Settings, retention_days: int) -> None:
    """Try until the server is ready, for a while."""
    give_up = time.monotonic() + PATIENCE_S
    while True:
        try:
            await prepare(settings, retention_days)
            return
        except (UnavailableError, RPCError) as error:
            final = isinstance(error, RPCError) and error.status not in NOT_YET
            if final or time.monotonic() > give_up:
                raise
            sys.stdout.write(f"not yet: {error}\n")
        await asyncio.sleep(PAUSE_S)


def main() -> int:
    """Run, and return the exit code."""
    days = os.environ.get("HOLDFAST_RETENTION_DAYS") or DEFAULT_RETENTION_DAYS
    if not days.isdecimal() or int(days) < 1:
        sys.stderr.write(f"HOLDFAST_RETENTION_DAYS must be a whole number of days, at least 1; it is {days!r}.\n")
        return 2
    try:
        asyncio.run(insist(Settings.from_environment(), int(days)))
    except (HoldfastError, RPCError) as error:
        sys.stderr.write(f"the namespace could not be prepared: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # a process that used the Temporal SDK can abort in the interpreter's teardown
