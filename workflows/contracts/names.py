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
SUBMIT_BATCH: Final = "submit_batch"
COLLECT_BATCH: Final = "collect_batch"
LEAVE_BATCH: Final = "leave_batch"

ASK_PERSON: Final = "ask_person"
CHECK_EDIT: Final = "check_edit"
KEEP_RECORD: Final = "keep_record"
CLOSE_RUN: Final = "close_run"
FIND_UNDOABLE: Final = "find_undoable"
UNDO_EFFECT: Final = "undo_effect"
WITHHOLD_RESULT: Final = "withhold_result"

APPROVE: Final = "approve"
REJECT: Final = "reject"
EDIT: Final = "edit"
ANSWER: Final = "answer"
INSTRUCT: Final = "instruct"
TAKE_OVER: Final = "take_over"
PAUSE: Final = "pause"
RESUME: Final = "resume"
INTERRUPT: Final = "interrupt"
CHANGE: Final = "change"
STOP: Final = "stop"
REDRIVE: Final = "redrive"
WAKE: Final = "wake"
ORDER: Final = "order"
"""The update that takes any of the orders above and tells what became of it."""
VIEW: Final = "view"

AGENT_NAME: Final = "AgentName"
AGENT_STATUS: Final = "AgentStatus"
AGENT_MODEL: Final = "AgentModel"
AGENT_USER: Final = "AgentUser"
TENANT: Final = "Tenant"
COST_USD: Final = "CostUsd"
FAILURE_CLASS: Final = "FailureClass"
WAITING_SINCE: Final = "WaitingSince"

SEARCH_ATTRIBUTES: Final[Mapping[str, str]] = MappingProxyType(
    {
        AGENT_NAME: "Keyword",
        AGENT_STATUS: "Keyword",
        AGENT_MODEL: "Keyword",
        AGENT_USER: "Keyword",
        TENANT: "Keyword",
        COST_USD: "Double",
        FAILURE_CLASS: "Keyword",
        WAITING_SINCE: "Datetime",
    }
)
"""Search attribute → Temporal type; what a server must know before the first run starts."""
