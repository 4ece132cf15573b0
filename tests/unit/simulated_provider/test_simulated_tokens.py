from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from devstack.simulated_provider.tokens import FIRST_MESSAGE, PrefixCache, count_tokens, input_tokens, output_tokens
from workflows.contracts.messages import Message, Role, ToolSchema


def conversation(*texts: str, system: str = "") -> SimulatedRequest:
    messages = tuple(Message(role=Role.USER, text=text) for text in texts)
    return SimulatedRequest(model="m", system=system, messages=messages, tools=())


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("hello", 1), ("hello, world!", 4), ("internationalization", 4), ("12345", 2)])
def test_words_signs_and_numbers_cost_what_they_look_like(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


@settings(deadline=None)
@given(st.text(), st.text())
def test_more_text_never_costs_less(one: str, more: str) -> None:
    assert count_tokens(f"{one} {more}") == count_tokens(one) + count_tokens(more)


def test_english_prose_costs_about_a_token_for_every_four_or_five_characters() -> None:
    prose = "The parcel with the broken lamp was sent back on Monday, and the customer asks for her money. " * 20
    assert 4 <= len(prose) / count_tokens(prose) <= 5.5


def test_tools_and_schema_are_read_too() -> None:
    tool = ToolSchema(name="find", description="Finds an order.", parameters={"type": "object"})
    plain = conversation("hi")
    full = SimulatedRequest(model="m", system="", messages=plain.messages, tools=(tool,), output_schema={"type": "object"})
    assert input_tokens(full) > input_tokens(plain) + 10


def test_an_answer_costs_at_least_one_token() -> None:
    assert output_tokens(SimulatedAnswer()) == 1


def test_the_longest_known_beginning_is_cached_in_steps_of_128() -> None:
    cache = PrefixCache()
    first = conversation("word " * 1500, "then this")
    assert cache.read_and_remember(first)[0] == 0
    longer = conversation("word " * 1500, "then this", "and that " * 100)
    cached, _ = cache.read_and_remember(longer)
    assert cached % 128 == 0
    assert 1408 <= cached <= input_tokens(first)
    other = conversation("other " * 1500, "then this")
    assert cache.read_and_remember(other)[0] == 0


def test_short_conversations_are_not_cached() -> None:
    cache = PrefixCache()
    assert cache.read_and_remember(conversation("short")) == (0, 0)
    assert cache.read_and_remember(conversation("short")) == (0, 0)


def test_the_cache_forgets_what_is_oldest() -> None:
    cache = PrefixCache(capacity=1)
    cache.read_and_remember(conversation("one " * 1500))
    cache.read_and_remember(conversation("two " * 1500))
    assert cache.read_and_remember(conversation("one " * 1500))[0] == 0


def test_with_breakpoints_only_what_ends_at_one_is_remembered() -> None:
    cache = PrefixCache()
    first = conversation("word " * 1500, "then this")
    assert cache.read_and_remember(first, ()) == (0, 0)
    assert cache.read_and_remember(first, (FIRST_MESSAGE,)) == (0, input_tokens(first) - 6)
    assert cache.read_and_remember(first, (FIRST_MESSAGE + 1,)) == (input_tokens(first) - 6, 6)
    assert cache.read_and_remember(first, (FIRST_MESSAGE + 1,)) == (input_tokens(first), 0)
    assert cache.read_and_remember(first, ()) == (0, 0)


def test_a_breakpoint_finds_what_was_remembered_twenty_messages_before_and_no_more() -> None:
    cache = PrefixCache()
    start = conversation("word " * 1500)
    cache.read_and_remember(start, (FIRST_MESSAGE,))
    for more, found in ((19, True), (20, False)):
        longer = conversation("word " * 1500, *("x" for _ in range(more)))
        assert (cache.read_and_remember(longer, (FIRST_MESSAGE + more,))[0] > 0) is found
        cache = PrefixCache()
        cache.read_and_remember(start, (FIRST_MESSAGE,))
