"""Names that cross a process boundary: stable, because stored histories and other programs hold them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

TASK_QUEUE: Final = "holdfast"
"""The one task queue that workflows and activities share unless a deployment splits them."""

AGENT_RUN: Final = "AgentRun"

CALL_MODEL: Final = "call_model"
RUN_TOOL: Final = "run_tool"
REMEMBER: Final = "remember"
RECALL: Final = "recall"
COMPACT: Final = "compact_history"

APPROVE: Final = "approve"
REJECT: Final = "reject"
REDRIVE: Final = "redrive"
WAKE: Final = "wake"
VIEW: Final = "view"

AGENT_NAME: Final = "AgentName"
AGENT_STATUS: Final = "AgentStatus"
AGENT_MODEL: Final = "AgentModel"
AGENT_USER: Final = "AgentUser"
TENANT: Final = "Tenant"
COST_USD: Final = "CostUsd"
FAILURE_CLASS: Final = "FailureClass"

SEARCH_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        AGENT_NAME: "Keyword",
        AGENT_STATUS: "Keyword",
        AGENT_MODEL: "Keyword",
        AGENT_USER: "Keyword",
        TENANT: "Keyword",
        COST_USD: "Double",
        FAILURE_CLASS: "Keyword",
    }
)
"""Search attribute → Temporal type; what a server must know before the first run starts."""
