"""How a Temporal server is set for development: one place, with reasons, the same for our binary and for `temporal`.

The figures were measured with five small activities on one worker (docs/adr/0003).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from workflows.contracts.names import SEARCH_ATTRIBUTES as SEARCH_ATTRIBUTES

NAMESPACE: Final = "default"
RETENTION_DAYS: Final = 30
"""Finished runs stay readable this long; the dev servers' own default is one day."""

MINIMUM_SERVER: Final = (1, 32)
"""The first server with time skipping per workflow, which the tests use."""

POLL_RPS: Final = 5000
REQUESTS_PER_S: Final = 20_000
LONG_POLLS: Final = 10_000

DYNAMIC_CONFIG: Final[Mapping[str, object]] = MappingProxyType(
    {
        # A dev server has one history shard, and a shard polls each of its queues at most 20 times a second by default:
        # that alone puts some 36 ms on every workflow task.
        "history.transferProcessorMaxPollRPS": POLL_RPS,
        "history.timerProcessorMaxPollRPS": POLL_RPS,
        "history.visibilityProcessorMaxPollRPS": POLL_RPS,
        "history.outboundProcessorMaxPollRPS": POLL_RPS,
        # One partition a task queue: with four, half of the tasks are forwarded between partitions of the same process.
        "matching.numTaskqueueReadPartitions": 1,
        "matching.numTaskqueueWritePartitions": 1,
        # Priorities and fairness keys of runs are honoured, as on a production server that has them on.
        "matching.enableFairness": True,
        # Tests let a workflow's own clock run ahead.
        "frontend.WorkflowTimeSkippingEnabled": True,
        # Search attributes that are created on a running server can be used at once, not a minute later; reading them
        # past the cache costs queries, so the guards on queries are widened with it.
        "system.forceSearchAttributesCacheRefreshOnRead": True,
        "frontend.persistenceMaxQPS": 100_000,
        "history.persistenceMaxQPS": 100_000,
        "matching.persistenceMaxQPS": 100_000,
        # The guards protect a shared cluster from one tenant. Here there is one tenant: thousands of runs started and
        # awaited at once must not meet them (defaults: 2,400 requests a second, 1,200 waiting polls, 10 list calls).
        "frontend.rps": REQUESTS_PER_S,
        "frontend.namespaceRPS": REQUESTS_PER_S,
        "frontend.namespaceRPS.visibility": 500,
        "frontend.namespaceCount": LONG_POLLS,
        # A laptop's memory: keep fewer finished histories at hand than a cluster does (default 128,000).
        "history.hostLevelCacheMaxSize": 8_192,
    }
)
"""Settings of the server, by Temporal's names. Eager activities and workflow updates are on by default."""

SQLITE_KEPT: Final[Mapping[str, str]] = MappingProxyType({"journal_mode": "wal", "synchronous": "normal"})
"""For state that is kept: outlives a crash of the server in full, one of the machine up to its last moments."""

SQLITE_EPHEMERAL: Final[Mapping[str, str]] = MappingProxyType({"journal_mode": "wal", "synchronous": "off"})
"""For state that goes with the stack: outlives a crash of the server, which is what tests need."""


def start_arguments(
    *, port: int, ui_port: int | None, db_filename: str, pragmas: Mapping[str, str], namespace: str = NAMESPACE
) -> list[str]:
    """The command line after the program's name that starts a dev server; `ui_port=None` leaves the Web UI away."""
    return [
        "server",
        "start-dev",
        f"--port={port}",
        f"--db-filename={db_filename}",
        f"--namespace={namespace}",
        "--log-level=warn",
        *(["--headless"] if ui_port is None else [f"--ui-port={ui_port}"]),
        *(f"--sqlite-pragma={name}={value}" for name, value in pragmas.items()),
        *(f"--dynamic-config-value={name}={json.dumps(value)}" for name, value in DYNAMIC_CONFIG.items()),
    ]
