"""The bookkeeping that the agent loop decides by: no server needed."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.contracts.agents import Limits
from workflows.contracts.messages import Usage
from workflows.contracts.runs import Repeat, Totals
from workflows.contracts.steps import ToolCallRef
from workflows.run_state import REMEMBERED_CALLS, RepeatWatch, add_child, limit_reached

LIMITS = Limits(steps=10, calls=5, tokens=100, cost_usd=Decimal("0.5"), time_s=60)
BELOW = Totals(steps=9, calls=4, usage=Usage(input_tokens=90, output_tokens=9), cost_usd=Decimal("0.49"))


def call(name: str = "find", arguments_hash: str = "h") -> ToolCallRef:
    return ToolCallRef(step=1, call_id="c", name=name, arguments_hash=arguments_hash)


def test_below_every_limit_the_next_call_may_go() -> None:
    assert limit_reached(LIMITS, BELOW, 59.9) is None


@pytest.mark.parametrize(
    ("used", "worked_s", "told"),
    [
        ({"steps": 10}, 0, "limit steps: 10 used"),
        ({"calls": 5}, 0, "limit calls: 5 used"),
        ({"usage": Usage(input_tokens=60, output_tokens=40)}, 0, "limit tokens: 100 of 100 used"),
        ({"cost_usd": Decimal("0.5")}, 0, "limit cost_usd: 0.5000 of 0.5 used"),
        ({}, 60, "limit time_s: 60 of 60 used"),
    ],
)
def test_a_limit_that_is_reached_is_told_in_words(used: dict[str, object], worked_s: float, told: str) -> None:
    assert limit_reached(LIMITS, BELOW.model_copy(update=used), worked_s) == told


def test_cached_tokens_are_counted_once() -> None:
    usage = Usage(input_tokens=50, cached_input_tokens=50, cache_write_tokens=50, output_tokens=1)
    assert usage.total_tokens == 51


def test_a_sub_runs_money_and_tokens_count_its_steps_do_not() -> None:
    child = Totals(steps=7, calls=3, usage=Usage(input_tokens=5, output_tokens=1), cost_usd=Decimal(1), unknown_usd=Decimal("0.5"))
    both = add_child(BELOW, child)
    assert (both.steps, both.calls) == (BELOW.steps, BELOW.calls)
    assert (both.usage.total_tokens, both.cost_usd, both.unknown_usd) == (105, Decimal("1.49"), Decimal("0.5"))


def test_a_result_that_differs_starts_the_count_anew() -> None:
    watch = RepeatWatch({})
    for result, count in (("a", 1), ("a", 2), ("b", 1), ("a", 1)):
        watch.seen(call(), result)
        assert watch.count(call()) == count


def test_refusals_count_and_calls_are_told_apart_by_name_and_arguments() -> None:
    watch = RepeatWatch({})
    watch.seen(call(), "a")
    watch.refused(call())
    assert watch.count(call()) == 2
    assert watch.count(call(name="other")) == watch.count(call(arguments_hash="other")) == 0


@given(st.lists(st.integers(0, 2 * REMEMBERED_CALLS), max_size=200))
def test_only_the_calls_used_last_are_remembered(used: list[int]) -> None:
    watch = RepeatWatch({})
    for place in used:
        watch.seen(call(arguments_hash=str(place)), "same")
    newest = list(dict.fromkeys(reversed(used)))[:REMEMBERED_CALLS]
    assert [key.partition(":")[2] for key in watch.calls] == [str(place) for place in reversed(newest)]


def test_the_counts_are_carried_as_they_are() -> None:
    carried = {"find:h": Repeat(result_hash="a", count=2)}
    watch = RepeatWatch(carried)
    watch.seen(call(), "a")
    assert watch.calls == {"find:h": Repeat(result_hash="a", count=3)}
    assert carried == {"find:h": Repeat(result_hash="a", count=2)}
