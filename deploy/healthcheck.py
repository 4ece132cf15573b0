"""End with 0 when Temporal has lately given work to the worker of this machine's name, else with 1 and the reason.

It asks Temporal, not the process: a worker that hangs, or has lost its connection, does not ask for work.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.service import RPCError

from client.settings import Settings
from client.temporal import connect_temporal
from workflows.contracts.errors import HoldfastError

LATELY_S: Final = 150.0
"""A worker asks for work again at least once a minute."""


async def silent_for_s(settings: Settings, hostname: str) -> float | None:
    """Seconds since a worker of this host last asked for work; None when Temporal knows of none."""
    client = await connect_temporal(settings)
    answer = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=settings.namespace,
            task_queue=TaskQueue(name=settings.task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        )
    )
    asked = [poller.last_access_time.ToSeconds() for poller in answer.pollers if poller.identity.endswith(f"@{hostname}")]
    return time.time() - max(asked) if asked else None


def main() -> int:
    """Run, and return the exit code."""
    hostname = socket.gethostname()
    try:
        silent_s = asyncio.run(silent_for_s(Settings.from_environment(), hostname))
    except (HoldfastError, RPCError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if silent_s is None or silent_s > LATELY_S:
        heard = "never" if silent_s is None else f"{silent_s:.0f} s ago"
        sys.stderr.write(f"the worker on {hostname} last asked Temporal for work: {heard}\n")
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # a process that used the Temporal SDK can abort in the interpreter's teardown
