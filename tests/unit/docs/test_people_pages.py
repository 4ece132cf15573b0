"""The pages on people say what the contracts say: orders, their fields, outcomes, policies."""

from __future__ import annotations

import json
import re
from typing import get_args

import pytest
import yaml

from client import orders
from client.people import RATE_PER_S
from state import notifications
from workflows.contracts import names
from workflows.contracts.agents import ApprovalPolicy
from workflows.contracts.people import ORDERS, TEXT_LIMIT, Order, Outcome
from workflows.contracts.people_settings import NotifySettings, PeopleSettings
from workflows.orders import ORDER_LIMIT_BYTES, read

from . import pages

SIGNALS = "reference/signals.md"


def test_every_signal_is_told_with_its_fields() -> None:
    told = {row[0]: set(re.findall(r"\w+", row[1])) for row in pages.table(SIGNALS, "Signals")}
    assert told.pop(names.WAKE) == set()
    common = set(Order.model_fields)
    assert told == {name: set(kind.model_fields) - common for name, kind in ORDERS.items()}


def test_every_outcome_is_told() -> None:
    text = (pages.ROOT / "docs" / SIGNALS).read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(\w+)` \| (?:it is so|one yes|it was|somebody|the reason|only clients)", text, re.MULTILINE))
    assert told == set(get_args(Outcome))
    assert f"{TEXT_LIMIT // 1024} KiB" in text
    assert f"{ORDER_LIMIT_BYTES // 1024} KiB" in text


@pytest.mark.parametrize("line", re.findall(r"--name (\w+) (?:\\\n +)?--input '(.+)'", (pages.ROOT / "docs" / SIGNALS).read_text("utf-8")))
def test_an_order_that_is_shown_can_be_sent(line: tuple[str, str]) -> None:
    name, given = line
    fields = json.loads(given)
    sent = read(fields.pop("order") if name == names.ORDER else name, fields)
    assert sent.problem == ""


def test_every_part_of_a_policy_is_told_with_its_default() -> None:
    told = {row[0]: row[1] for row in pages.table("reference/agent-definition.md", "`approvals`")}
    assert set(told) == {"when", *ApprovalPolicy.model_fields}
    plain = {name: yaml.safe_load(told[name]) for name in ("quorum", "not_by_user", "on_timeout", "risk")}
    assert plain == ApprovalPolicy().model_dump(include=set(plain))


def test_every_field_of_the_people_file_is_told() -> None:
    told = {row[0]: row[1] for row in pages.table("reference/agent-definition.md", "people.yaml")}
    assert set(told) == {"groups.NAME"} | {f"notify.{name}" for name in NotifySettings.model_fields}
    assert {name.partition(".")[0] for name in told} == set(PeopleSettings.model_fields)
    assert int(told["notify.attempts"]) == NotifySettings.model_fields["attempts"].default


def test_the_figures_of_the_pages_are_those_of_the_code() -> None:
    how_to = (pages.ROOT / "docs/how-to/people-in-the-loop.md").read_text(encoding="utf-8")
    assert orders.ANSWER_WITHIN_S == 10
    assert "within ten seconds" in how_to
    assert notifications.LONGEST_PAUSE_S == 3_600
    assert "up to an hour" in how_to
    assert f"`--rate` a second ({RATE_PER_S:g})" in (pages.ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
