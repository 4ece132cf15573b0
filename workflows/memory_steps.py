"""The steps that carry knowledge from one run to the next."""

from __future__ import annotations

from temporalio import workflow

from workflows.contracts import policies, stubs
from workflows.course import Course


async def recall(course: Course) -> None:
    """Put what is remembered before the conversation."""
    course.now(course.step, "recalling")
    await course.control.insist(
        lambda: workflow.execute_activity(stubs.recall, course.memory_request(0), summary="recall memories", **policies.MEMORY.options()),
        0,
        "recall",
    )


async def remember(course: Course) -> None:
    """Keep the question and the answer for later runs."""
    course.now(course.step, "remembering")
    await course.control.insist(
        lambda: workflow.execute_activity(
            stubs.remember, course.memory_request(course.step), summary="keep a memory", **policies.MEMORY.options()
        ),
        course.step,
        "remember",
    )
