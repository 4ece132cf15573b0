"""One place that decides what a provider's error is: a failure class, a time to wait, and a message without secrets.

Codes are looked at before statuses: an exhausted quota comes as HTTP 429, an overload as HTTP 200 with an error inside.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from activities.inference.providers.told_limits import http_date, number, sent_at, told_limits
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import ModelRequest
from workflows.contracts.redaction import redact

_QUOTA_CODES = frozenset(
    {
        "insufficient_quota",
        "quota_exceeded",
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "contract_spend_limit_reached",
        "enforced_spend_limit_reached",
        "linked_organization_billing_unavailable",
        "linked_organization_spend_limit_reached",
    }
)
_CONTEXT_CODES = frozenset(
    {"context_length_exceeded", "string_above_max_length", "model_context_window_exceeded", "exceed_context_size_error"}
)
_THROTTLED_CODES = frozenset({"rate_limit_exceeded", "rate_limit_error", "ramp_limit_exceeded", "too_many_requests"})
_TRANSIENT_CODES = frozenset(
    {
        "api_error",
        "engine_overloaded_error",
        "internal_error",
        "internal_server_error",
        "overloaded",
        "overloaded_error",
        "server_error",
        "service_unavailable",
        "slow_down",
        "timeout",
        "timeout_error",
    }
)
_CALLER_CODES = frozenset(
    {"authentication_error", "invalid_api_key", "invalid_request_error", "model_not_found", "not_found_error", "permission_error"}
)
# Some servers tell these by words only; the words are theirs, so each list is short and exact.
_CONTEXT_WORDS = ("maximum context length", "prompt is too long", "exceed context limit", "request too large for")
_QUOTA_WORDS = ("credit balance is too low", "reached your specified api usage limits")
_TRANSIENT_STATUSES = frozenset({408, 409, 425, 499})
_PROXY_GAVE_UP = frozenset({408, 499, 502, 504, 524})
_LONGEST_MESSAGE = 300
_SHORTEST_QUOTE = 12


@dataclass(frozen=True, slots=True)
class Failure:
    """What a provider said about a call that failed.

    `status` is the HTTP status, 200 for an error inside a stream, None when there was no answer at all.
    """

    status: int | None
    kind: str = ""
    code: str = ""
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def read_failure(status: int | None, body: object, headers: Mapping[str, str]) -> Failure:
    """Read an error body of either dialect, of a compatible server, or of a proxy on the way."""
    error: object = body.get("error", body) if isinstance(body, Mapping) else body
    if isinstance(error, str):
        return Failure(status, message=error, headers=headers)
    if not isinstance(error, Mapping):
        return Failure(status, headers=headers)
    code = error.get("code")
    details = error.get("details")
    if isinstance(details, Mapping) and details.get("error_code"):
        code = details["error_code"]
    if isinstance(code, int) and status in (None, 200):  # servers that put the status into the stream
        status, code = code, None
    message = error.get("message") or error.get("detail")
    return Failure(
        status,
        kind=_text(error.get("type")),
        code=_text(code),
        message=message if isinstance(message, str) else "",
        headers=headers,
    )


def _text(value: object) -> str:
    return str(value) if isinstance(value, str | int) else ""


def failure_class(failure: Failure) -> FailureClass:
    """The class that decides what happens to the step."""
    names = {failure.code.lower(), failure.kind.lower()}
    words = failure.message.lower()
    status = failure.status or 0
    if names & _QUOTA_CODES or status == 402 or any(word in words for word in _QUOTA_WORDS):
        return FailureClass.QUOTA
    if names & _CONTEXT_CODES or any(word in words for word in _CONTEXT_WORDS):
        return FailureClass.CONTEXT
    if names & _THROTTLED_CODES:
        return FailureClass.THROTTLED
    if names & _TRANSIENT_CODES:
        return FailureClass.TRANSIENT
    if names & _CALLER_CODES and status < 400:
        return FailureClass.CALLER
    return _class_of_status(status)


def _class_of_status(status: int) -> FailureClass:
    if status == 429:
        return FailureClass.THROTTLED
    if status >= 500 or status in _TRANSIENT_STATUSES or status < 300:
        return FailureClass.TRANSIENT
    return FailureClass.CALLER


def step_error(
    provider: str, failure: Failure, request: ModelRequest, secrets: Iterable[str] = (), *, spend_unknown: bool = False
) -> StepError:
    """The one error that a provider adapter raises. The message holds neither secrets nor the request's content.

    A refusal is not billed, except where it is a proxy's own: one that gave up waiting does not know what the model did.
    """
    code = failure.code or failure.kind or (str(failure.status) if failure.status else "unknown")
    where = f"answered {failure.status}" if failure.status and failure.status >= 400 else "reported in its answer"
    said = conceal(failure.message, request, secrets)
    return StepError(
        f"{provider} {where} ({code})" + (f": {said}" if said else ""),
        failure_class=failure_class(failure),
        retry_after_s=retry_after_s(failure.headers),
        code=code,
        told=told_limits(failure.headers),
        spend_unknown=spend_unknown or (failure.status in _PROXY_GAVE_UP and not failure.code and not failure.kind),
    )


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that the other side asked to wait: `retry-after-ms`, or `retry-after` as seconds or as an HTTP date.

    A date is measured against the answer's own `date`, so that a clock that is wrong here does no harm. None when nothing
    was said or what was said makes no sense.
    """
    milliseconds = number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    seconds = number(told)
    if seconds is not None:
        return seconds
    until = http_date(told)
    return None if until is None else max(0.0, until.timestamp() - sent_at(headers, now))


def conceal(message: str, request: ModelRequest, secrets: Iterable[str] = ()) -> str:
    """A provider's message without secrets, without what it quotes of the conversation, and not longer than 300 characters."""
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[redacted]")
    message = redact(" ".join(message.split()))[: _LONGEST_MESSAGE + 1]
    if len(message) > _LONGEST_MESSAGE:
        message = message[: _LONGEST_MESSAGE - 1] + "…"
    return _without_quotes(message, request)


def _without_quotes(message: str, request: ModelRequest) -> str:
    """Cut out every stretch of twelve or more characters that also stands in the conversation."""
    said = " ".join(" ".join(_contents(request)).split())
    quoted = [False] * len(message)
    for at in range(len(message) - _SHORTEST_QUOTE + 1):
        if message[at : at + _SHORTEST_QUOTE] in said:
            quoted[at : at + _SHORTEST_QUOTE] = [True] * _SHORTEST_QUOTE
    kept = [
        "" if hidden and at and quoted[at - 1] else "…" if hidden else letter
        for at, (letter, hidden) in enumerate(zip(message, quoted, strict=True))
    ]
    return "".join(kept)


def _contents(request: ModelRequest) -> Iterable[str]:
    for message in request.messages:
        yield message.text
        yield from (call.arguments for call in message.tool_calls)


def unreachable(provider: str, cause: str) -> StepError:
    """No connection could be made: nothing was sent."""
    return StepError(f"{provider} could not be reached ({cause})", failure_class=FailureClass.TRANSIENT, code="unreachable")


def hung_up(provider: str, cause: str, *, timed_out: bool) -> StepError:
    """The connection was lost, or fell silent for too long, after the request had gone out."""
    return StepError(
        f"{provider} {'did not answer in time' if timed_out else 'hung up'} ({cause})",
        failure_class=FailureClass.TRANSIENT,
        code="timeout" if timed_out else "connection",
        spend_unknown=True,
    )


def broke_off(provider: str, events: int) -> StepError:
    """The stream ended before its final event."""
    return StepError(
        f"{provider}: the stream broke off after {events} events, before its end",
        failure_class=FailureClass.TRANSIENT,
        code="stream_broke_off",
        spend_unknown=True,
    )


def unreadable(provider: str, what: str) -> StepError:
    """The provider sent something that is not what the dialect says."""
    return StepError(
        f"{provider} sent what cannot be read: {what}",
        failure_class=FailureClass.TRANSIENT,
        code="unreadable",
        spend_unknown=True,
    )


def bug(provider: str, error: BaseException, *, spend_unknown: bool) -> StepError:
    """Our own code failed. Type and place say where; the error's text may hold content and is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return StepError(
        f"the adapter for {provider} failed with {type(error).__name__}{place}",
        failure_class=FailureClass.CODE,
        code="adapter",
        spend_unknown=spend_unknown,
    )


def error_in(data: Any) -> bool:
    """Whether an event of a stream is an error."""
    return isinstance(data, dict) and bool(data.get("error"))


def unsendable(provider: str) -> StepError:
    """The request holds text that is not Unicode: half of a surrogate pair, most often from bytes decoded wrongly."""
    return StepError(
        f"the request to {provider} holds text that cannot be encoded as UTF-8", failure_class=FailureClass.CALLER, code="not_unicode"
    )
