"""Holdfast: durable AI agents on Temporal. All that users import, by name; the machinery is loaded when a name is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.comparing import Comparison
    from client.events import RunEvent, StatusEvent, StepEvent
    from client.orchestrator import Orchestrator
    from client.reports import RunReport
    from client.run import Run
    from client.settings import Settings
    from client.steps import StepReport
    from client.visibility import RunSummary
    from workflows.contracts.agents import AgentDefinition, ApprovalPolicy, Cache, Effect, Limits, Memory, ToolSpec
    from workflows.contracts.errors import (
        ArgumentsError,
        ConfigurationConflictError,
        ConfigurationError,
        DefinitionError,
        FailureClass,
        HoldfastError,
        IdempotencyConflictError,
        InputTooLargeError,
        InvalidInputError,
        ResultTypeError,
        RunCancelledError,
        RunError,
        RunFailedError,
        RunParkedError,
        RunStateError,
        SettingsError,
        StepError,
        ToolError,
        UnavailableError,
        UnknownAgentError,
        UnknownModelError,
        UnknownRunError,
        UnknownToolError,
        UsageError,
    )
    from workflows.contracts.hooks import Ask, Deny, after, before
    from workflows.contracts.inference import Priority
    from workflows.contracts.people import Verdict
    from workflows.contracts.runs import Approval, Parked, RunOutcome, RunStatus, RunView, Totals
    from workflows.contracts.tools import Provided, ToolContext, provide, tool

__version__ = "0.1.0"

_ERRORS = (
    "ArgumentsError ConfigurationConflictError ConfigurationError DefinitionError FailureClass HoldfastError IdempotencyConflictError "
    "InputTooLargeError InvalidInputError "
    "ResultTypeError RunCancelledError RunError RunFailedError RunParkedError RunStateError SettingsError StepError ToolError "
    "UnavailableError UnknownAgentError UnknownModelError UnknownRunError UnknownToolError UsageError"
)
_HOMES = {
    "client.comparing": "Comparison",
    "client.events": "RunEvent StatusEvent StepEvent",
    "client.orchestrator": "Orchestrator",
    "client.reports": "RunReport",
    "client.run": "Run",
    "client.settings": "Settings",
    "client.steps": "StepReport",
    "client.visibility": "RunSummary",
    "workflows.contracts.agents": "AgentDefinition ApprovalPolicy Cache Effect Limits Memory ToolSpec",
    "workflows.contracts.errors": _ERRORS,
    "workflows.contracts.hooks": "Ask Deny after before",
    "workflows.contracts.inference": "Priority",
    "workflows.contracts.people": "Verdict",
    "workflows.contracts.runs": "Approval Parked RunOutcome RunStatus RunView Totals",
    "workflows.contracts.tools": "Provided ToolContext provide tool",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AgentDefinition",
    "Approval",
    "ApprovalPolicy",
    "ArgumentsError",
    "Ask",
    "Cache",
    "Comparison",
    "ConfigurationConflictError",
    "ConfigurationError",
    "DefinitionError",
    "Deny",
    "Effect",
    "FailureClass",
    "HoldfastError",
    "IdempotencyConflictError",
    "InputTooLargeError",
    "InvalidInputError",
    "Limits",
    "Memory",
    "Orchestrator",
    "Parked",
    "Priority",
    "Provided",
    "ResultTypeError",
    "Run",
    "RunCancelledError",
    "RunError",
    "RunEvent",
    "RunFailedError",
    "RunOutcome",
    "RunParkedError",
    "RunReport",
    "RunStateError",
    "RunStatus",
    "RunSummary",
    "RunView",
    "Settings",
    "SettingsError",
    "StatusEvent",
    "StepError",
    "StepEvent",
    "StepReport",
    "ToolContext",
    "ToolError",
    "ToolSpec",
    "Totals",
    "UnavailableError",
    "UnknownAgentError",
    "UnknownModelError",
    "UnknownRunError",
    "UnknownToolError",
    "UsageError",
    "Verdict",
    "__version__",
    "after",
    "before",
    "provide",
    "tool",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562): `import holdfast` itself takes a millisecond."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
    import importlib

    value = globals()[name] = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
