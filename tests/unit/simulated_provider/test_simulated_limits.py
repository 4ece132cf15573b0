from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstack.simulated_provider.limits import ACCOUNT, Demand, Limits, RateLimiter


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


ONE = Demand(input_tokens=10, max_output_tokens=20)


def test_requests_pass_up_to_the_limit_and_then_have_to_wait(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(requests_per_minute=3)}, clock)
    assert [limiter.admit("m", ONE).refused_by for _ in range(4)] == [None, None, None, "requests"]
    assert limiter.admit("m", ONE).retry_after_s == pytest.approx(20)
    clock.at += 20
    assert limiter.admit("m", ONE).refused_by is None


def test_reserved_output_that_was_not_written_comes_back(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(tokens_per_minute=60)}, clock)
    first, second = limiter.admit("m", ONE), limiter.admit("m", ONE)
    assert (first.refused_by, second.refused_by) == (None, None)
    assert limiter.admit("m", ONE).refused_by == "tokens"
    limiter.settle(first, ONE, output_tokens=0)
    limiter.settle(second, ONE, output_tokens=10)
    assert limiter.admit("m", ONE).refused_by is None


def test_written_output_counts_after_the_fact(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(output_tokens_per_minute=60)}, clock)
    limiter.settle(limiter.admit("m", ONE), ONE, output_tokens=90)
    refused = limiter.admit("m", ONE)
    assert (refused.refused_by, refused.retry_after_s) == ("output_tokens", pytest.approx(31))


def test_models_share_the_accounts_limit_and_keep_their_own(clock: Clock) -> None:
    limiter = RateLimiter({ACCOUNT: Limits(requests_per_minute=3), "a": Limits(requests_per_minute=2)}, clock)
    assert [limiter.admit(model, ONE).refused_by for model in "aaab"] == [None, None, "requests", None]
    assert limiter.admit("b", ONE).refused_by == "requests"


def test_a_refused_request_takes_nothing_from_any_limit(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(requests_per_minute=10, input_tokens_per_minute=15)}, clock)
    limiter.admit("m", ONE)
    refused = limiter.admit("m", ONE)
    assert refused.refused_by == "input_tokens"
    assert refused.buckets["requests"].level == pytest.approx(9)


def test_a_request_above_the_capacity_is_told_apart(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(input_tokens_per_minute=5)}, clock)
    assert limiter.admit("m", ONE).too_large


def test_a_lowered_limit_keeps_what_was_used(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(requests_per_minute=10)}, clock)
    for _ in range(5):
        limiter.admit("m", ONE)
    limiter.change({"m": Limits(requests_per_minute=4)})
    assert [limiter.admit("m", ONE).refused_by for _ in range(3)] == [None, None, "requests"]


def test_the_star_gives_each_model_limits_of_its_own(clock: Clock) -> None:
    limiter = RateLimiter({"*": Limits(requests_per_minute=1)}, clock)
    assert [limiter.admit(model, ONE).refused_by for model in "abab"] == [None, None, "requests", "requests"]


@settings(deadline=None)
@given(
    st.floats(1, 600),
    st.floats(1, 60),
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 4)), min_size=1, max_size=60),
)
def test_never_more_passes_than_the_burst_and_the_rate_allow(per_minute: float, burst_s: float, arrivals: list[tuple[float, int]]) -> None:
    clock = Clock()
    limiter = RateLimiter({"m": Limits(requests_per_minute=per_minute, burst_s=burst_s)}, clock)
    passed = 0
    for pause_s, together in arrivals:
        clock.at += pause_s
        passed += sum(limiter.admit("m", ONE).refused_by is None for _ in range(together))
    allowed = per_minute * burst_s / 60 + (clock.at - 1000) * per_minute / 60
    assert passed <= allowed + 1e-6


@settings(deadline=None)
@given(st.integers(0, 50), st.floats(0.1, 30))
def test_a_request_that_waits_as_it_was_told_passes(before: int, pause_s: float) -> None:
    clock = Clock()
    limiter = RateLimiter({"m": Limits(requests_per_minute=30, tokens_per_minute=900)}, clock)
    for _ in range(before):
        limiter.admit("m", ONE)
    clock.at += pause_s
    verdict = limiter.admit("m", ONE)
    if verdict.refused_by:
        clock.at += verdict.retry_after_s + 1e-6
        assert limiter.admit("m", ONE).refused_by is None


def test_each_key_has_limits_of_its_own_beside_the_models(clock: Clock) -> None:
    limiter = RateLimiter({"key:*": Limits(requests_per_minute=1), "key:rich": Limits(requests_per_minute=2)}, clock)
    assert [limiter.admit("m", ONE, key).refused_by for key in ("aaaa", "bbbb", "aaaa")] == [None, None, "requests"]
    assert [limiter.admit("m", ONE, "rich").refused_by for _ in range(3)] == [None, None, "requests"]
    refused = {entry["of"]: entry["refused"] for entry in limiter.report()}
    assert refused == {"key:aaaa": 1, "key:bbbb": 0, "key:rich": 1}


def test_so_many_calls_at_once_and_no_more(clock: Clock) -> None:
    limiter = RateLimiter({ACCOUNT: Limits(concurrency=2)}, clock)
    first, second = limiter.admit("a", ONE), limiter.admit("b", ONE)
    assert limiter.admit("c", ONE).refused_by == "concurrency"
    limiter.settle(first, ONE, 0)
    limiter.settle(first, ONE, 0)  # a second time it frees nothing
    assert [limiter.admit("c", ONE).refused_by for _ in range(2)] == [None, "concurrency"]
    assert second.refused_by is None


def test_a_lowered_window_counts_what_passed_before(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(requests_per_minute=10, mode="window")}, clock)
    for _ in range(5):
        limiter.admit("m", ONE)
    limiter.change({"m": Limits(requests_per_minute=4, mode="window")})
    refused = limiter.admit("m", ONE)
    assert (refused.refused_by, refused.retry_after_s) == ("requests", pytest.approx(60))
    clock.at += 60
    assert [limiter.admit("m", ONE).refused_by for _ in range(5)] == [None] * 4 + ["requests"]


def test_a_report_tells_what_was_used_of_what_was_allowed(clock: Clock) -> None:
    limiter = RateLimiter({"m": Limits(requests_per_minute=60, tokens_per_minute=6000)}, clock)
    for _ in range(31):
        limiter.settle(limiter.admit("m", ONE), ONE, output_tokens=5)
        clock.at += 1
    limiter.change({"m": Limits(requests_per_minute=30, tokens_per_minute=6000)})
    for _ in range(30):
        limiter.admit("m", ONE)
        clock.at += 2
    requests, tokens = limiter.report()
    assert (requests["used"], requests["refused"], requests["per_minute"], requests["seconds"]) == (61, 0, 30, 89)
    assert requests["allowed"] == pytest.approx(31 + 29)
    assert tokens["used"] == 31 * 15 + 30 * 30


@settings(deadline=None)
@given(st.integers(1, 12), st.lists(st.tuples(st.floats(0, 40), st.integers(1, 8), st.integers(0, 20)), min_size=1, max_size=40))
def test_a_strict_window_never_lets_more_through_in_any_minute(limit: int, arrivals: list[tuple[float, int, int]]) -> None:
    clock = Clock()
    limiter = RateLimiter({"m": Limits(requests_per_minute=limit, tokens_per_minute=limit * 30, mode="window")}, clock)
    passed: list[tuple[float, int]] = []
    for pause_s, together, written in arrivals:
        clock.at += pause_s
        verdicts = [limiter.admit("m", ONE) for _ in range(together)]
        for verdict in verdicts:
            if verdict.refused_by is None:
                limiter.settle(verdict, ONE, written)
                passed.append((clock.at, 10 + written))
        if verdicts[-1].refused_by:
            clock.at += limiter.admit("m", ONE).retry_after_s
            assert limiter.admit("m", ONE).refused_by is None, "who waits as told must pass"
            passed.append((clock.at, 30))
    for start, _ in passed:
        within = [tokens for at, tokens in passed if start <= at < start + 60]
        assert len(within) <= limit
        assert sum(within) <= limit * 30
