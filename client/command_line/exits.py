"""The exit codes of `holdfast`, and which error ends with which."""

from __future__ import annotations

from enum import IntEnum

from workflows.contracts.errors import (
    HoldfastError,
    RunError,
    RunParkedError,
    UnavailableError,
    UsageError,
)


class ExitCode(IntEnum):
    """What the shell is told. docs/reference/command-line.md has the same table."""

    OK = 0
    FAILED = 1
    """A run failed or was cancelled, a batch had failures, or `doctor` found something broken."""
    USAGE = 2
    """The command, an argument, an input or a setting is wrong."""
    UNREACHABLE = 3
    """Temporal, the database or a part of the development stack does not answer or start."""
    PARKED = 4
    """The run waits for a person."""
    GOES_ON = 5
    """The run had not ended when `--timeout` was over."""
    BUG = 70
    """A mistake of ours; the traceback is on standard error."""
    INTERRUPTED = 130
    """Ctrl-C. A run that was waited for goes on."""
    BROKEN_PIPE = 141
    """Whoever read our output stopped reading."""


def exit_code_of(error: BaseException) -> ExitCode:
    """How a command that raised this ends."""
    match error:
        case KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case BrokenPipeError():
            return ExitCode.BROKEN_PIPE
        case TimeoutError():
            return ExitCode.GOES_ON
        case RunParkedError():
            return ExitCode.PARKED
        case RunError():
            return ExitCode.FAILED
        case UsageError():
            return ExitCode.USAGE
        case UnavailableError() | HoldfastError():
            return ExitCode.UNREACHABLE
    return ExitCode.BUG
