"""What an answer's headers tell of the provider's limits: `x-ratelimit-*` as openai writes them, `anthropic-ratelimit-*`.

Compatible servers tell some of them, or none. A few tell requests by the day under the same names, so a told limit may lower what
is asked of a provider and never raise it. What makes no sense is left out: no header can fail a call.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from workflows.contracts.messages import LimitKind, ToldLimit

_OPENAI = re.compile(r"x-ratelimit-(limit|remaining|reset)-(requests|tokens|input-tokens|output-tokens)")
_ANTHROPIC = re.compile(r"anthropic-ratelimit-(requests|tokens|input-tokens|output-tokens)-(limit|remaining|reset)")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|us|µs|s|m|h|d)")
_SPAN_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def told_limits(headers: Mapping[str, str], now: float | None = None) -> tuple[ToldLimit, ...]:
    """The limits that the headers tell, in order of their kinds; none when they tell nothing.

    Times of day are measured against the answer's own `date`, so that a clock that is wrong here does no harm.
    """
    found: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        name = name.lower()
        if match := _OPENAI.fullmatch(name):
            found.setdefault(match[2], {})[match[1]] = value
        elif match := _ANTHROPIC.fullmatch(name):
            found.setdefault(match[1], {})[match[2]] = value
    if not found:
        return ()
    present = sent_at(headers, now)
    told = ((LimitKind(kind.replace("-", "_")), parts) for kind, parts in sorted(found.items()))
    limits = (_limit(kind, parts, present) for kind, parts in told)
    return tuple(limit for limit in limits if (limit.limit, limit.remaining, limit.reset_s) != (None, None, None))


def _limit(kind: LimitKind, parts: Mapping[str, str], present: float) -> ToldLimit:
    return ToldLimit(
        kind=kind,
        limit=number(parts.get("limit")),
        remaining=number(parts.get("remaining")),
        reset_s=reset_s(parts.get("reset"), present),
    )


def reset_s(text: str | None, present: float) -> float | None:
    """Seconds until a limit is whole again: a span such as `1m0.5s` or `20ms`, plain seconds, or a time of day by RFC 3339."""
    if not text:
        return None
    parts = _SPAN.findall(text)
    if parts and "".join(size + unit for size, unit in parts) == text:
        return sum(float(size) * _SPAN_S[unit] for size, unit in parts)
    seconds = number(text)
    if seconds is not None:
        return seconds
    try:
        until = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(0.0, (until if until.tzinfo else until.replace(tzinfo=UTC)).timestamp() - present)


def sent_at(headers: Mapping[str, str], now: float | None = None) -> float:
    """When the answer was sent, by its own `date`; our clock (or `now`) where it has none. Seconds since the epoch."""
    sent = http_date(headers.get("date"))
    if sent is not None:
        return sent.timestamp()
    return time.time() if now is None else now


def number(text: str | None) -> float | None:
    """A finite number that is not negative, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def http_date(text: str | None) -> datetime | None:
    """A date as HTTP headers write it, or None."""
    try:
        return parsedate_to_datetime(text) if text else None
    except ValueError:
        return None
