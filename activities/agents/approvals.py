"""What an agent's YAML says of people: `approvals` of its tools, and `ask_people`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from activities.agents.documents import Document, Location, closest
from workflows.contracts.agents import ApprovalPolicy, ToolSpec
from workflows.contracts.tools import wrong_references

_HOW = "Write a condition like amount_usd > 50, true, false, or a mapping with when, by, quorum, …"
_KNOWN = ("when", *ApprovalPolicy.model_fields)


def approved(document: Document, spec: ToolSpec, given: Any) -> ToolSpec:
    """The tool as this agent may use it.

    Args:
        document: where it stands.
        spec: the tool as it is declared.
        given: true, false, a condition, or a mapping of `when` and what an `ApprovalPolicy` has.

    Raises:
        DefinitionError: with file, line, field and remedy.
    """
    location: Location = ("approvals", spec.name)
    changed: dict[str, Any] = {"approve": given}
    if isinstance(given, dict):
        changed = {"approve": given.get("when", spec.approve or True), "policy": _policy(document, location, given)}
        location = (*location, "when") if "when" in given else location
    if not isinstance(changed["approve"], bool | str):
        raise document.wrong(location, "must be true, false or a condition", _HOW)
    specified = spec.model_copy(update=changed)
    for _, problem, remedy in wrong_references(specified):
        raise document.wrong(location, problem, remedy)
    return specified


def ask_people(document: Document) -> ApprovalPolicy | None:
    """Who answers the agent's questions, or None when it may ask nobody.

    Raises:
        DefinitionError: with file, line, field and remedy.
    """
    given = document.values.get("ask_people")
    location: Location = ("ask_people",)
    if given is None or isinstance(given, bool):
        return ApprovalPolicy() if given else None
    if not isinstance(given, dict):
        raise document.wrong(location, "must be true, false or a mapping", "Write ask_people: true, or a mapping with by, timeout_s, …")
    if "when" in given:
        raise document.wrong((*location, "when"), "is for the approvals of tools", "Leave it out")
    policy = _policy(document, location, given)
    if policy.on_timeout == "approve":
        raise document.wrong((*location, "on_timeout"), "a question has no answer that could be taken for a yes", "Write reject or park")
    if policy.quorum > 1:
        raise document.wrong((*location, "quorum"), "one person answers a question", "Leave it out")
    return policy


def _policy(document: Document, location: Location, given: Mapping[str, Any]) -> ApprovalPolicy:
    try:
        return ApprovalPolicy.model_validate({name: value for name, value in given.items() if name != "when"})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
        where = (*location, *first["loc"])
        if first["type"] == "extra_forbidden":
            raise document.wrong(where, "is not known", closest(str(first["loc"][-1]), _KNOWN)) from None
        remedy = "Write a list, as in [ann, '@leads']" if first["loc"][:1] in (("by",), ("escalate_to",)) else "Correct it"
        raise document.wrong(where, first["msg"].removeprefix("Value error, "), remedy) from None
