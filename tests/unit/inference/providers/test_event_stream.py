from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from activities.inference.providers.event_stream import Event, EventDecoder

LINE_TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=30)
EVENTS = st.lists(st.builds(Event, name=st.sampled_from(["", "ping", "message_delta"]), data=LINE_TEXT), max_size=8)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


def written(events: list[Event], end: str) -> bytes:
    out = ""
    for event in events:
        out += f"event: {event.name}{end}" if event.name else ""
        out += f"data: {event.data}{end}{end}"
    return out.encode()


def decoded(chunks: list[bytes]) -> list[Event]:
    decoder = EventDecoder()
    found = [event for chunk in chunks for event in decoder.feed(chunk)]
    return found + decoder.finish()


@settings(deadline=None)
@given(EVENTS, LINE_ENDS, st.data())
def test_events_are_the_same_wherever_the_bytes_are_cut(events: list[Event], end: str, data: st.DataObject) -> None:
    stream = written(events, end)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    chunks = [stream[start:stop] for start, stop in pairwise([0, *cuts, len(stream)])]
    assert decoded(chunks) == events


@settings(deadline=None)
@given(EVENTS, LINE_ENDS)
def test_events_are_the_same_when_every_byte_comes_alone(events: list[Event], end: str) -> None:
    assert decoded([bytes([byte]) for byte in written(events, end)]) == events


def test_an_event_of_several_data_lines_is_one_text() -> None:
    assert decoded([b"data: one\ndata:two\n\n"]) == [Event("", "one\ntwo")]


def test_a_comment_is_a_sign_of_life_without_data() -> None:
    assert decoded([b": PROCESSING\n\n", b"data: x\n\n"]) == [Event("", None), Event("", "x")]


def test_a_last_event_without_its_empty_line_still_counts() -> None:
    assert decoded([b"data: [DONE]"]) == [Event("", "[DONE]")]


def test_unknown_fields_and_empty_events_are_skipped() -> None:
    assert decoded([b"id: 7\nretry: 10\nevent: ping\n\n\n\n"]) == []


def test_bytes_that_are_not_utf8_are_an_error() -> None:
    with pytest.raises(UnicodeDecodeError):
        decoded([b"data: \xff\xfe\n\n"])
