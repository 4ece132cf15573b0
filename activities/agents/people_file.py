"""people.yaml: groups of people, and how people are told; and whether definitions name groups that exist."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from activities.agents import documents
from activities.agents.documents import Document, closest
from activities.inference.settings import resolved
from workflows.contracts.agents import AgentDefinition, ApprovalPolicy
from workflows.contracts.people_settings import PeopleSettings

PEOPLE_FILE = "people.yaml"


def load(paths: Iterable[Path], environ: Mapping[str, str] = os.environ) -> PeopleSettings:
    """Read every people.yaml; groups of all are known everywhere, and one of them says how people are told.

    Raises:
        DefinitionError: a file is wrong, a group stands in two, or two say how to notify; names file, line, field and remedy.
    """
    whole = PeopleSettings()
    for path in paths:
        document = documents.read(path)
        read = documents.validate(document, PeopleSettings, resolved(document.values, environ))
        for name in read.groups:
            if name in whole.groups:
                raise document.wrong(("groups", name), "stands in another people.yaml too", "Keep one of them")
        if read.notify is not None and whole.notify is not None:
            raise document.wrong(("notify",), "stands in another people.yaml too", "Keep one of them")
        whole = PeopleSettings(groups={**whole.groups, **read.groups}, notify=read.notify or whole.notify)
    return whole


def check(document: Document, definition: AgentDefinition, people: PeopleSettings) -> None:
    """Refuse policies that name groups which nobody has, or that ask for more people than may decide.

    Raises:
        DefinitionError: with file, line, field and remedy.
    """
    for spec in definition.tools:
        if spec.policy is not None:
            _check(document, ("approvals", spec.name), spec.policy, people)
    if definition.ask_people is not None:
        _check(document, ("ask_people",), definition.ask_people, people)


def _check(document: Document, place: tuple[str, ...], policy: ApprovalPolicy, people: PeopleSettings) -> None:
    for field, named in (("by", policy.by), ("escalate_to", policy.escalate_to)):
        for group in people.unknown(named):
            remedy = closest(group, [f"@{name}" for name in people.groups])
            raise document.wrong((*place, field), f"there is no group {group!r} in people.yaml", remedy)
        able = people.resolve(named)
        if named and len(able) < policy.quorum:
            problem = f"{policy.quorum} people must say yes, but {field} names {len(able)}: {', '.join(able)}"
            raise document.wrong((*place, "quorum"), problem, "Name more people, or lower the quorum")
