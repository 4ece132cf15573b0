"""What folders say of people: groups and notification in people.yaml, who decides on a tool's calls, who answers an agent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from activities.agents.folders import Catalog
from tests.unit.agents.conftest import AGENT, TOOLS, Write
from workflows.contracts.agents import ApprovalPolicy

Loaded = Callable[..., Catalog]
Refused = Callable[..., str]

PEOPLE = "groups:\n  leads: [ann, bob]\n  heads: [hanna, hugo]\n"


def test_groups_and_notification_are_read_and_the_environment_is_put_in(
    write: Write, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_HOST", "hooks.example")
    write("people.yaml", PEOPLE + "notify: {webhook: 'https://${env:HOOK_HOST}/x', command: [tell, --all], attempts: 3}\n")
    people = loaded(write("support.yaml", AGENT)).people

    assert people.resolve(["@leads", "carl", "ann"]) == ("ann", "bob", "carl")
    assert people.notify is not None
    assert (people.notify.webhook, people.notify.command, people.notify.attempts) == ("https://hooks.example/x", ("tell", "--all"), 3)


def test_a_group_that_nobody_knows_is_nobody_and_not_everybody(write: Write, loaded: Loaded) -> None:
    people = loaded(write("support.yaml", AGENT)).people
    assert people.resolve(["@gone"]) == ("@gone",)
    assert people.unknown(["@gone", "ann"]) == ("@gone",)


def test_approvals_may_say_who_when_and_how_long(write: Write, loaded: Loaded) -> None:
    write("people.yaml", PEOPLE)
    write("tools.py", TOOLS)
    approvals = (
        "approvals:\n  refund: {when: amount_usd > 500, by: ['@leads'], quorum: 2, timeout_s: 3600, on_timeout: escalate, "
        "escalate_to: ['@heads'], remind_every_s: 600, risk: high}\n  find_order: {not_by_user: true}\n"
    )
    definition = loaded(write("support.yaml", AGENT + "tools: [find_order, refund]\n" + approvals)).definitions["support"]

    find, refund = definition.tools
    assert (find.approve, find.policy) == (True, ApprovalPolicy(not_by_user=True))
    assert refund.approve == "amount_usd > 500"
    assert refund.policy is not None
    assert (refund.policy.by, refund.policy.quorum, refund.policy.risk) == (("@leads",), 2, "high")


def test_a_mapping_without_when_keeps_the_tools_own_condition(write: Write, loaded: Loaded) -> None:
    write("tools.py", TOOLS)
    text = AGENT + "tools: [refund]\napprovals: {refund: {by: [ann]}}\n"
    (refund,) = loaded(write("support.yaml", text)).definitions["support"].tools
    assert (refund.approve, refund.policy) == ("amount_usd > 50", ApprovalPolicy(by=("ann",)))


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        ("true", ApprovalPolicy()),
        ("false", None),
        ("{by: [ann], timeout_s: 60, on_timeout: park}", ApprovalPolicy(by=("ann",), timeout_s=60, on_timeout="park")),
    ],
)
def test_an_agent_may_be_let_ask_people(write: Write, loaded: Loaded, said: str, policy: ApprovalPolicy | None) -> None:
    assert loaded(write("support.yaml", f"{AGENT}ask_people: {said}\n")).definitions["support"].ask_people == policy


@pytest.mark.parametrize(
    ("more", "pattern"),
    [
        ("approvals: {refund: {bye: [ann]}}", r"field approvals\.refund\.bye: is not known\. Did you mean by\?"),
        (
            "approvals: {refund: {by: ['@leaders']}}",
            r"approvals\.refund\.by: there is no group '@leaders' in people.yaml\. Did you mean @leads",
        ),
        ("approvals: {refund: {by: ['@leads'], quorum: 3}}", r"approvals\.refund\.quorum: 3 people must say yes, but by names 2: ann, bob"),
        ("approvals: {refund: {by: [ann], quorum: 2}}", r"approvals\.refund: quorum: 2 people must say yes, but `by` names 1"),
        ("approvals: {refund: {on_timeout: escalate}}", r"approvals\.refund: on_timeout: escalate needs timeout_s and escalate_to"),
        ("approvals: {refund: {timeout_s: soon}}", r"approvals\.refund\.timeout_s: .*number"),
        ("approvals: {refund: {by: ann}}", r"approvals\.refund\.by: .*Write a list"),
        ("approvals: {refund: {when: 5}}", r"approvals\.refund\.when: must be true, false or a condition"),
        ("approvals: {refund: {when: amount > 5}}", r"approvals\.refund\.when: no argument is called `amount`"),
        ("ask_people: maybe", r"ask_people: must be true, false or a mapping"),
        ("ask_people: {when: true}", r"ask_people\.when: is for the approvals of tools"),
        ("ask_people: {timeout_s: 5, on_timeout: approve}", r"ask_people\.on_timeout: a question has no answer"),
        ("ask_people: {quorum: 2}", r"ask_people\.quorum: one person answers"),
        ("ask_people: {by: ['@nobody']}", r"ask_people\.by: there is no group '@nobody'"),
    ],
)
def test_a_wrong_policy_is_refused_with_field_and_remedy(write: Write, refused: Refused, more: str, pattern: str) -> None:
    write("people.yaml", PEOPLE)
    write("tools.py", TOOLS)
    write("support.yaml", f"{AGENT}tools: [refund]\n{more}\n")
    refused("support.yaml", 4, pattern)


@pytest.mark.parametrize(
    ("text", "line", "pattern"),
    [
        ("groups: {leads: []}", 1, r"field groups\.leads: .*at least 1 item"),
        ("groups: {Leads: [ann]}", 1, r"field groups\.Leads: .*pattern"),
        ("groups: {leads: ['@heads']}", 1, r"field groups\.leads\.0: .*pattern"),
        ("group: {}", 1, r"field group: is not known\. Did you mean groups\?"),
        ("notify: {}", 1, r"field notify: .*give webhook, or command"),
        ("notify: {webhook: hooks.example}", 1, r"field notify\.webhook: .*pattern"),
        ("notify: {webhook: '${env:NOT_SET_ANYWHERE}'}", 1, r"field notify\.webhook: .*pattern"),
        ("notify: {command: []}", 1, r"field notify\.command: .*at least 1 item"),
    ],
)
def test_a_wrong_people_file_is_refused(write: Write, refused: Refused, text: str, line: int, pattern: str) -> None:
    write("support.yaml", AGENT)
    write("people.yaml", text + "\n")
    refused("people.yaml", line, pattern)


def test_two_folders_share_their_groups_and_may_not_contradict_each_other(
    tmp_path: Path, write: Write, loaded: Loaded, refused: Refused
) -> None:
    write("one/people.yaml", PEOPLE)
    write("two/people.yaml", "groups: {others: [olaf]}\n")
    write("two/support.yaml", AGENT + "ask_people: {by: ['@leads', '@others']}\n")
    folders = (tmp_path / "one", tmp_path / "two")
    assert set(loaded(*folders).people.groups) == {"leads", "heads", "others"}

    write("two/people.yaml", "groups: {leads: [olaf]}\n")
    refused("two/people.yaml", 1, r"field groups\.leads: stands in another people.yaml too", *folders)


def test_no_tool_may_have_the_name_of_the_question_to_people(write: Write, refused: Refused) -> None:
    write("tools.py", TOOLS.replace("find_order", "ask_person"))
    write("support.yaml", AGENT + "tools: [ask_person]\nask_people: true\n")
    refused("support.yaml", 4, r"field ask_people: the model would be shown two tools called ask_person")
