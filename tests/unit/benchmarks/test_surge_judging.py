"""How the surge's use of limits is judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from benchmarks.surge_judging import Bound, used


def journal(moments: Iterable[float], model: str = "gpt-5-mini", tokens: int = 100) -> list[dict[str, Any]]:
    return [{"received_at": at, "model": model, "usage": {"input_tokens": tokens - 10, "output_tokens": 10}} for at in moments]


def every(seconds: float, begin: float, end: float) -> list[float]:
    return [begin + number * seconds for number in range(round((end - begin) / seconds))]


def test_the_limit_that_is_used_most_counts() -> None:
    calls = journal(every(1.0, 0, 120))
    assert used([Bound("requests", 60)], calls) == pytest.approx(1.0, abs=0.02)
    assert used([Bound("requests", 120)], calls) == pytest.approx(0.5, abs=0.02)
    assert used([Bound("requests", 120), Bound("tokens", 6_000)], calls) == pytest.approx(1.0, abs=0.02)


def test_a_limit_counts_as_it_stood() -> None:
    calls = journal(every(1.0, 0, 60) + every(2.0, 60, 180))
    assert used([Bound("requests", 60)], calls) == pytest.approx(0.67, abs=0.02)
    assert used([Bound("requests", 60, lowered=(60.0, 30.0))], calls) == pytest.approx(1.0, abs=0.02)


def test_a_models_own_limit_counts_its_own_calls() -> None:
    calls = journal(every(1.0, 0, 60)) + journal(every(5.0, 0, 120), "gpt-5")
    account, own = Bound("requests", 72), Bound("requests", 12, "gpt-5")
    assert used([account], calls) < 0.7
    assert used([account, own], calls) == pytest.approx(1.0, abs=0.05)


def test_calls_that_were_refused_do_not_count() -> None:
    refused = [{"received_at": at, "model": "gpt-5-mini", "usage": None} for at in every(1.0, 0, 120)]
    assert used([Bound("requests", 60)], journal(every(2.0, 0, 120)) + refused) == pytest.approx(0.5, abs=0.02)
