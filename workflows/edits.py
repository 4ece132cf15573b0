"""A person's arguments, answer or input, held against what they must fit before they count."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import JsonValue
from temporalio import workflow
from temporalio.exceptions import ActivityError

from workflows.contracts import policies, stubs
from workflows.contracts.people import NOBODY, Edited, EditRequest
from workflows.course import Course


class About(Protocol):
    """The call that an edit is about; a question's request is one."""

    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def call_id(self) -> str: ...  # noqa: D102
    @property
    def model_step(self) -> int: ...  # noqa: D102
    @property
    def tool(self) -> str: ...  # noqa: D102


async def check(course: Course, kind: Literal["arguments", "answer", "input"], value: JsonValue, by: str, about: About | None) -> Edited:
    """Have it looked at, and kept as a new version when it fits."""
    request = EditRequest(
        run_id=course.given.run_id,
        step=about.step if about else 0,
        call_id=about.call_id if about else "",
        model_step=about.model_step if about else 0,
        kind=kind,
        name=about.tool if about else "",
        agent=course.agent,
        tenant=course.given.tenant,
        value=value,
        by=by or NOBODY,
        note=course.scribe.numbered + 1,
    )
    summary = f"step {request.step}: look at the {kind} that {by} gave"
    try:
        return await workflow.execute_activity(stubs.check_edit, request, summary=summary, **policies.EDIT_CHECK.options())
    except ActivityError:
        return Edited(problem=f"the {kind} could not be looked at just now: send it again")
