"""A run's steps, put together from rows; and the cursor over them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.events import Cursor
from client.steps import assemble
from state.model_calls import Charge
from state.transcripts import Entry
from workflows.contracts.errors import InvalidInputError
from workflows.contracts.messages import Message, Role, ToolCall

START = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = Message(role=Role.ASSISTANT, text="", tool_calls=(ToolCall(call_id="c1", name="find", arguments='{"id": 1}'),))


def row(step: int, message: Message, part: int = 0, agent: str = "desk") -> Entry:
    return Entry(step, part, agent, message, None, START + timedelta(seconds=step))


def charge(step: int, attempt: int = 1, state: str = "recorded", **given: Any) -> Charge:
    fields: dict[str, Any] = {
        "call_id": step * 10 + attempt,
        "run_id": "r",
        "step": step,
        "attempt": attempt,
        "state": state,
        "agent": "desk",
        "provider": "openai",
        "model": "gpt",
        "cost_usd": Decimal("0.01"),
        "price_version": "1",
        "input_tokens": 100,
        "cached_tokens": 40,
        "output_tokens": 10,
        "request_id": None,
        "simulated": False,
        "failure_class": None,
        "failure": None,
        "reason": "the only candidate",
        "started_at": START,
        "finished_at": START + timedelta(seconds=1.5),
    }
    return Charge(**(fields | given))


def answer(text: str) -> Message:
    return Message(role=Role.ASSISTANT, text=text)


def test_a_run_with_a_tool_is_told_step_by_step():
    found = assemble(
        [
            row(0, Message(role=Role.USER, text="Where is W17?")),
            row(1, ASKED),
            row(2, Message(role=Role.TOOL, call_id="c1", text="on its way")),
            row(3, answer("It is on its way.")),
        ],
        [charge(1), charge(3, simulated=True)],
        {},
    )

    assert [(step.step, step.kind, step.name, step.state) for step in found] == [
        (0, "input", "user", "done"),
        (1, "model", "gpt", "done"),
        (2, "tool", "find", "done"),
        (3, "model", "gpt", "done"),
    ]
    assert (found[2].asked, found[2].preview) == ('{"id": 1}', "on its way")
    assert found[1].duration_s == 1.5
    assert (found[1].usage.input_tokens, found[1].usage.cached_input_tokens, found[1].cost_usd) == (100, 40, Decimal("0.01"))
    assert [step.simulated for step in found] == [False, False, False, True]


def test_what_is_asked_for_and_has_no_result_waits():
    found = assemble([row(1, ASKED)], [charge(1)], {})

    assert (found[1].step, found[1].state, found[1].done, found[1].attempts) == (2, "waiting", False, 0)


def test_a_call_in_the_air_is_shown_as_running():
    found = assemble([], [charge(1, state="in_flight", cost_usd=Decimal(0), finished_at=None)], {})

    assert (found[0].state, found[0].duration_s) == ("running", None)


def test_every_attempt_of_a_step_counts_and_unknown_spend_is_told_apart():
    found = assemble(
        [row(1, answer("At last."))],
        [charge(1, 1, "unknown", cost_usd=Decimal("0.05")), charge(1, 2, "failed", cost_usd=Decimal(0)), charge(1, 3)],
        {},
    )

    assert (found[0].attempts, found[0].cost_usd, found[0].unknown_usd) == (3, Decimal("0.06"), Decimal("0.05"))
    assert found[0].state == "done"


def test_a_step_whose_last_attempt_failed_says_why():
    found = assemble([], [charge(1, state="failed", failure_class="caller", failure="the key is wrong")], {})

    assert (found[0].state, found[0].preview) == ("failed", "the key is wrong")


def test_an_answer_that_was_told_to_be_wrong_is_marked():
    found = assemble([row(1, answer("{")), row(1, Message(role=Role.USER, text="no JSON"), part=1)], [charge(1)], {})

    assert found[0].is_error


def test_sub_runs_and_hand_overs_are_no_tools():
    calls = (
        ToolCall(call_id="a", name="research", arguments="{}"),
        ToolCall(call_id="b", name="hand_over_to_refunds", arguments="{}"),
    )
    found = assemble([row(1, Message(role=Role.ASSISTANT, tool_calls=calls))], [charge(1)], {2: "r.2"})

    assert [(step.kind, step.name, step.sub_run_id, step.state) for step in found[1:]] == [
        ("agent", "research", "r.2", "running"),
        ("handover", "refunds", None, "waiting"),
    ]


def test_a_summary_is_a_step_of_its_own():
    found = assemble([row(4, Message(role=Role.USER, text="Summary: …"))], [charge(4)], {})

    assert found[0].kind == "summary"


def test_secrets_do_not_reach_a_preview():
    found = assemble([row(1, answer("the key is sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"))], [charge(1)], {})

    assert "sk-proj" not in found[0].preview


@given(st.sets(st.integers(min_value=0, max_value=300)))
def test_a_cursor_is_read_back_as_it_was_written(told: set[int]):
    assert Cursor.parse(str(Cursor(frozenset(told)))).told == told


def test_a_cursor_is_written_as_ranges():
    assert str(Cursor().after([0, 1, 2, 3, 5, 7, 8])) == "0-3,5,7-8"
    assert Cursor.parse("0-3,5").complete_through() == 3
    assert Cursor.parse(None).complete_through() == -1


@pytest.mark.parametrize("text", ["x", "1-", "-1", "1-2-3", "1,x", "99999999", "1-99999999999"])
def test_what_is_no_cursor_is_refused(text: str):
    with pytest.raises(InvalidInputError, match="no cursor"):
        Cursor.parse(text)
