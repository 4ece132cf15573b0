"""What may start a run, and the names it goes by."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from client import inputs
from workflows.contracts.agents import Limits
from workflows.contracts.errors import InputTooLargeError, InvalidInputError
from workflows.contracts.runs import INPUT_LIMIT_BYTES


class Ticket(BaseModel):
    number: int
    text: str


def test_text_is_given_to_the_model_as_it_is():
    assert inputs.read_input("  Grüße, 世界 \n") == "  Grüße, 世界 \n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"order": "W17", "ü": [1, None]}, '{"order": "W17", "ü": [1, null]}'),
        ([Ticket(number=1, text="a")], '[{"number": 1, "text": "a"}]'),
        (Ticket(number=1, text="a"), '{"number": 1, "text": "a"}'),
    ],
)
def test_data_is_given_to_the_model_as_json(value: Any, text: str):
    assert inputs.read_input(value) == text


def test_an_input_over_the_limit_is_refused_with_both_figures():
    assert inputs.read_input("ä" * (INPUT_LIMIT_BYTES // 2))
    with pytest.raises(InputTooLargeError, match=rf"{INPUT_LIMIT_BYTES + 2} bytes; at most {INPUT_LIMIT_BYTES}"):
        inputs.read_input("ä" * (INPUT_LIMIT_BYTES // 2 + 1))


@pytest.mark.parametrize("value", ["", " \n", "\x00", "\x00 \x00"])
def test_an_input_that_says_nothing_is_refused(value: str):
    with pytest.raises(InvalidInputError, match="empty"):
        inputs.read_input(value)


def test_half_a_surrogate_pair_is_refused_with_its_place():
    with pytest.raises(InvalidInputError, match="character 2"):
        inputs.read_input("ab\udce9")


@pytest.mark.parametrize("value", [{"a": math.nan}, {"a": {1, 2}}, {("a", "b"): 1}, [object()]])
def test_data_that_is_no_json_is_refused(value: Any):
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        inputs.read_input(value)


def test_data_that_holds_itself_is_refused():
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(InvalidInputError):
        inputs.read_input(circle)


def test_a_file_that_is_not_utf8_is_refused_with_file_and_byte():
    with pytest.raises(InvalidInputError, match=r"letter\.txt is not UTF-8: byte 3"):
        inputs.decode(b"caf\xe9 au lait", "letter.txt")


def test_a_byte_order_mark_is_no_part_of_the_input():
    assert inputs.decode(b"\xef\xbb\xbfhello", "x") == "hello"


@given(st.text(), st.text())
def test_a_key_gives_the_same_run_id_always_and_others_another(one: str, other: str):
    assert inputs.keyed_run_id("a", "t", one) == inputs.keyed_run_id("a", "t", one)
    assert (inputs.keyed_run_id("a", "t", one) == inputs.keyed_run_id("a", "t", other)) == (one == other)


def test_tenant_and_key_cannot_be_moved_against_each_other():
    assert inputs.keyed_run_id("a", "xy", "z") != inputs.keyed_run_id("a", "x", "yz")


def test_new_run_ids_sort_by_time_and_name_the_agent():
    made = [inputs.new_run_id("support") for _ in range(200)]

    assert len(set(made)) == 200
    assert all(inputs.check_run_id(run_id).startswith("support-") for run_id in made)
    stamps = [run_id[: len("support-") + 10] for run_id in made]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("run_id", ["", "a.1", "a b", "-a", "a/b", "x" * 129, "ä"])
def test_a_run_id_that_cannot_be_one_is_refused(run_id: str):
    with pytest.raises(InvalidInputError, match="run_id"):
        inputs.check_run_id(run_id)


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\x00", "x" * 201])
def test_a_name_that_cannot_be_kept_is_refused_by_its_field(value: str):
    with pytest.raises(InvalidInputError, match="tenant must have"):
        inputs.check_name(value, "tenant")


def test_the_body_of_a_request_is_agent_input_user_and_limits():
    first = inputs.body_hash("a", "x", None, None)

    assert inputs.body_hash("a", "x", None, None) == first
    others = [
        inputs.body_hash("b", "x", None, None),
        inputs.body_hash("a", "y", None, None),
        inputs.body_hash("a", "x", "u", None),
        inputs.body_hash("a", "x", None, Limits(steps=3)),
    ]
    assert len({first, *others}) == 5
