"""Every error Holdfast raises, and the failure classes that decide what happens next.

HoldfastError
├── UsageError                 the caller can mend it; nothing was started
│   ├── UnknownAgentError
│   ├── UnknownToolError
│   ├── UnknownModelError
│   ├── UnknownRunError
│   ├── RunStateError           the run is not where the order would mean anything: ended, not parked, nothing to approve
│   ├── DefinitionError        an agent or tool definition is wrong: file, line, field, remedy
│   ├── ArgumentsError         tool arguments that do not fit the tool's schema
│   ├── InputTooLargeError
│   ├── InvalidInputError
│   ├── IdempotencyConflictError
│   ├── SettingsError
│   └── ConfigurationError      a change of the configuration that cannot be used: field, remedy
│       └── ConfigurationConflictError
├── RunError                   a run ended without an answer
│   ├── RunFailedError
│   ├── RunCancelledError
│   ├── RunParkedError         the run waits for a person, and the caller asked not to wait with it
│   └── ResultTypeError        the answer does not fit the type that was asked for
├── StepError                  one model or tool call failed; `failure_class` decides what happens
├── ToolError                  raised by a tool to tell the model what went wrong
└── UnavailableError           Temporal or the database cannot be reached
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # every command imports the errors; pydantic would cost each a sixth of a second
    from workflows.contracts.messages import ToldLimit


class FailureClass(StrEnum):
    """One owner for each kind of trouble (DESIGN §4); the class decides what happens to the step."""

    THROTTLED = "throttled"
    TRANSIENT = "transient"
    QUOTA = "quota"
    CALLER = "caller"
    CONTEXT = "context"
    MODEL_BEHAVIOUR = "model_behaviour"
    TOOL = "tool"
    UNKNOWN_OUTCOME = "unknown_outcome"
    LIMIT = "limit"
    NO_DECISION = "no_decision"
    CODE = "code"


class HoldfastError(Exception):
    """Something in Holdfast went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class UsageError(HoldfastError):
    """The call was wrong; nothing was started."""


class UnknownAgentError(UsageError):
    """No agent of this name is registered."""


class UnknownToolError(UsageError):
    """No tool of this name is registered."""


class UnknownModelError(UsageError):
    """No provider serves this model."""


class UnknownRunError(UsageError):
    """No run with this id exists."""


class RunStateError(UsageError):
    """The run is in a state in which this order means nothing."""


class DefinitionError(UsageError):
    """An agent or tool definition is wrong."""


class ArgumentsError(UsageError):
    """The arguments do not fit the tool's schema."""


class InputTooLargeError(UsageError):
    """The input is larger than Holdfast accepts."""


class InvalidInputError(UsageError):
    """The input cannot be read."""


class IdempotencyConflictError(UsageError):
    """This idempotency key was used with another body."""


class SettingsError(UsageError):
    """A setting has a value that cannot be used."""


class ConfigurationError(UsageError):
    """A change of the configuration cannot be used; nothing was changed.

    Args:
        message: what is wrong and what to do, for people.
        field: the path of the field that is wrong, if one is.
    """

    def __init__(self, message: str | None = None, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class ConfigurationConflictError(ConfigurationError):
    """Somebody else has changed the configuration meanwhile."""


class RunError(HoldfastError):
    """The run ended without an answer."""


class RunFailedError(RunError):
    """The run failed.

    Args:
        message: what happened, for people.
        failure_class: the class of the failure that ended it; None when Temporal ended it (terminated, timed out).
    """

    def __init__(self, message: str | None = None, *, failure_class: FailureClass | None = None) -> None:
        super().__init__(message)
        self.failure_class = failure_class


class RunCancelledError(RunError):
    """The run was cancelled."""


class RunParkedError(RunError):
    """The run is parked and waits for a person."""


class ResultTypeError(RunError):
    """The run's answer does not fit the type that was asked for."""


class UnavailableError(HoldfastError):
    """A part that Holdfast needs cannot be reached."""


class ToolError(HoldfastError):
    """A tool could not do what was asked; its message is told to the model."""


class StepError(HoldfastError):
    """A model or tool call failed.

    Args:
        message: what happened, without secrets or content.
        failure_class: decides whether the step is retried, told to the model, or parked.
        retry_after_s: seconds that the other side asked to wait, if it did.
        code: the provider's own code or HTTP status, for people.
        spend_unknown: the provider may have billed: the request went out and no clear refusal came back.
        told: what the provider told of its limits with the refusal.
        exact: `retry_after_s` is a slot that is reserved: the retry comes then, without jitter.
        wakeable: somebody may end the wait earlier, so the run itself waits, by a durable timer.
    """

    def __init__(
        self,
        message: str,
        *,
        failure_class: FailureClass,
        retry_after_s: float | None = None,
        code: str | None = None,
        spend_unknown: bool = False,
        told: tuple[ToldLimit, ...] = (),
        exact: bool = False,
        wakeable: bool = False,
    ) -> None:
        super().__init__(message)
        self.told = told
        self.exact = exact
        self.wakeable = wakeable
        self.failure_class = failure_class
        self.retry_after_s = retry_after_s
        self.code = code
        self.spend_unknown = spend_unknown
