"""What users import."""

from __future__ import annotations

import subprocess
import sys

import holdfast

PUBLIC = """
    AgentDefinition Approval ApprovalPolicy ArgumentsError Ask Cache Comparison ConfigurationConflictError ConfigurationError
    DefinitionError Deny Effect FailureClass HoldfastError IdempotencyConflictError InputTooLargeError InvalidInputError Limits Memory
    Orchestrator Parked
    Priority Provided ResultTypeError Run RunCancelledError RunError RunEvent RunFailedError RunOutcome RunParkedError RunReport
    RunStateError RunStatus RunSummary RunView Settings SettingsError StatusEvent StepError StepEvent StepReport ToolContext
    ToolError ToolSpec Totals UnavailableError UnknownAgentError UnknownModelError UnknownRunError UnknownToolError UsageError
    Verdict __version__ after before provide tool
"""


def test_the_public_names_are_these_and_each_can_be_imported():
    assert sorted(holdfast.__all__) == sorted(PUBLIC.split())
    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None


def test_a_name_that_is_not_public_is_refused_as_python_does():
    assert not hasattr(holdfast, "AgentRun")


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after the code."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split())


def test_importing_holdfast_loads_nothing_else():
    assert not loaded_by("import holdfast") & {"temporalio", "pydantic", "asyncpg", "client", "workflows"}


def test_no_public_name_loads_a_provider_sdk_or_an_activity():
    loaded = loaded_by("from holdfast import *")

    assert {"temporalio", "client"} <= loaded
    assert not loaded & {"openai", "anthropic", "httpx2", "genai_prices", "activities", "devstack", "worker", "testkit"}
