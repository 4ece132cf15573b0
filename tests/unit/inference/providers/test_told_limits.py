"""What providers tell of their limits in the headers of answers, in both dialects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from activities.inference.providers.failures import read_failure, step_error
from activities.inference.providers.told_limits import reset_s, told_limits
from workflows.contracts.messages import FinishReason, LimitKind, ModelRequest, ModelResponse, ToldLimit, Usage

SENT = 1_764_219_600.0  # Thu, 27 Nov 2025 05:00:00 GMT
DATE = {"date": "Thu, 27 Nov 2025 05:00:00 GMT"}
OPENAI = {
    "x-ratelimit-limit-requests": "500",
    "x-ratelimit-remaining-requests": "499",
    "x-ratelimit-reset-requests": "120ms",
    "X-RateLimit-Limit-Tokens": "30000",
    "X-RateLimit-Remaining-Tokens": "29500",
    "X-RateLimit-Reset-Tokens": "1m0.5s",
    "x-ratelimit-limit-project-tokens": "7",
}
ANTHROPIC = DATE | {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "0",
    "anthropic-ratelimit-requests-reset": "2025-11-27T05:00:12Z",
    "anthropic-ratelimit-input-tokens-limit": "40000",
    "anthropic-ratelimit-input-tokens-remaining": "39000",
    "anthropic-ratelimit-output-tokens-reset": "2025-11-27T06:00:30+01:00",
    "anthropic-ratelimit-unified-status": "allowed",
}


def test_openais_headers_are_read_with_their_spans() -> None:
    assert told_limits(OPENAI) == (
        ToldLimit(kind=LimitKind.REQUESTS, limit=500, remaining=499, reset_s=0.12),
        ToldLimit(kind=LimitKind.TOKENS, limit=30_000, remaining=29_500, reset_s=60.5),
    )


def test_anthropics_times_of_day_are_measured_against_the_answers_own_date() -> None:
    assert told_limits(ANTHROPIC, now=SENT + 10_000) == (
        ToldLimit(kind=LimitKind.INPUT_TOKENS, limit=40_000, remaining=39_000),
        ToldLimit(kind=LimitKind.OUTPUT_TOKENS, reset_s=30),
        ToldLimit(kind=LimitKind.REQUESTS, limit=50, remaining=0, reset_s=12),
    )


def test_without_a_date_our_clock_has_to_do() -> None:
    headers = {name: value for name, value in ANTHROPIC.items() if name != "date"}
    assert told_limits(headers, now=SENT + 2)[-1].reset_s == 10


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20ms", 0.02),
        ("1s", 1),
        ("1m0.5s", 60.5),
        ("6m0s", 360),
        ("1h2m3s", 3723),
        ("1d", 86_400),
        ("250µs", 0.00025),
        ("7", 7),
        ("0s", 0),
        ("2025-11-27T04:59:00Z", 0),
        ("2025-11-27T05:00:01", 1),
        ("soon", None),
        ("1m soon", None),
        ("-5", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_a_time_until_reset_is_understood_or_left_out(text: str | None, seconds: float | None) -> None:
    found = reset_s(text, SENT)
    assert found is None if seconds is None else found == pytest.approx(seconds)


def test_headers_that_make_no_sense_tell_nothing() -> None:
    assert told_limits({"x-ratelimit-limit-requests": "many", "anthropic-ratelimit-tokens-reset": "soon"}) == ()
    assert told_limits({}) == ()


@given(st.text(), st.text(), st.text())
def test_no_header_fails_a_call(limit: str, remaining: str, reset: str) -> None:
    for start, end in (("x-ratelimit-{}-tokens", ""), ("anthropic-ratelimit-tokens-{}", "")):
        told_limits({start.format("limit"): limit, start.format("remaining"): remaining, start.format("reset"): reset, "date": end})


def test_a_refusal_carries_what_was_told() -> None:
    request = ModelRequest(model="m", messages=(), max_output_tokens=1, idempotency_key="r:1")
    error = step_error("p", read_failure(429, {}, OPENAI), request)
    assert [limit.kind for limit in error.told] == ["requests", "tokens"]


def test_what_was_told_is_not_stored_with_the_answer() -> None:
    told = (ToldLimit(kind=LimitKind.REQUESTS, remaining=1),)
    response = ModelResponse(model="m", finish=FinishReason.STOP, usage=Usage(), told=told)
    assert "told" not in response.model_dump()
    assert "told" not in response.model_dump_json()
    assert response.told == told
