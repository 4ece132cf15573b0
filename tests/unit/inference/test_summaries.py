"""The record of a conversation that is summarised fits the model that summarises it, and keeps what matters most."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from activities.inference import summaries
from state.transcripts import BYTES_PER_TOKEN, estimate_tokens
from workflows.contracts.messages import Message, Role, ToolCall

TEXT = st.text(max_size=400) | st.integers(0, 60_000).map(lambda size: "ä漢x" * (size // 3))
CALLS = st.lists(st.builds(ToolCall, call_id=st.just("c"), name=st.text(max_size=10), arguments=TEXT), max_size=2).map(tuple)
MESSAGES = st.builds(Message, role=st.sampled_from(Role), text=TEXT, tool_calls=CALLS)


def text_of(conversation: tuple[Message, ...], window_tokens: int) -> str:
    (record,) = summaries.as_record(conversation, window_tokens)
    assert record.role is Role.USER
    return record.text


def talk(count: int, size: int = 100) -> tuple[Message, ...]:
    return tuple(Message(role=Role.ASSISTANT if place else Role.USER, text=f"entry {place} " + "x" * size) for place in range(count))


@given(conversation=st.lists(MESSAGES, max_size=30).map(tuple), window_tokens=st.integers(256, 20_000))
@example(conversation=(), window_tokens=256)
@example(conversation=tuple(Message(role=Role.TOOL, text="") for _ in range(4_000)), window_tokens=256)
def test_the_record_leaves_room_in_the_window(conversation: tuple[Message, ...], window_tokens: int):
    (record,) = summaries.as_record(conversation, window_tokens)
    room = window_tokens * summaries.INPUT_SHARE
    assert estimate_tokens(record) <= room + 32, "a little more for the mark of what was left out"


def test_a_conversation_that_fits_is_kept_word_for_word():
    conversation = (
        Message(role=Role.USER, text="Where is W1?"),
        Message(role=Role.ASSISTANT, tool_calls=(ToolCall(call_id="c", name="find", arguments='{"q": "W1"}'),)),
        Message(role=Role.TOOL, text="on its way", call_id="c"),
    )
    assert text_of(conversation, 10_000) == 'user: Where is W1?\n\nassistant: \n  calls find({"q": "W1"})\n\ntool: on its way'


def test_long_messages_are_cut_before_any_is_dropped():
    conversation = (*talk(3), Message(role=Role.TOOL, text="y" * 50_000), *talk(2))
    text = text_of(conversation, 10_000)
    assert text.count("entry ") == 5
    assert "y" * (summaries.MESSAGE_BYTES - 10) in text
    assert "y" * summaries.MESSAGE_BYTES not in text
    assert "[cut]" in text


def test_the_request_and_the_newest_entries_are_kept_and_the_gap_is_named():
    text = text_of(talk(1_000), 2_000)
    assert text.startswith("user: entry 0 ")
    assert text.endswith("entry 999 " + "x" * 100)
    assert "\n\n[earlier entries left out]\n\n" in text
    assert "entry 1 " not in text
    assert len(text.encode()) > 2_000 * summaries.INPUT_SHARE * BYTES_PER_TOKEN * 0.8, "the room is used"


def test_a_request_larger_than_the_room_is_cut_itself():
    text = text_of(talk(1, size=100_000), 1_000)
    assert text.startswith("user: entry 0 xxx")
    assert text.endswith("[cut]")


def test_what_is_asked_offers_no_tools():
    asked = summaries.asked()
    assert (asked.tools, asked.output_schema, asked.may_overflow) == ((), None, True)
    assert asked.max_output_tokens == summaries.MAX_SUMMARY_TOKENS
