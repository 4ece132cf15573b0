"""Each activity is what workflows take it for: stub, implementation and scripted double have one name and one signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest
from temporalio import activity

from activities.inference.call_in_batch import BatchActivities
from activities.inference.call_model import ModelActivities
from activities.memory.remember import MemoryActivities
from activities.people.questions import QuestionActivities
from activities.people.records import RecordActivities
from activities.tools.run_tool import ToolActivities
from activities.tools.undo import UndoActivities
from tests.workflow.scripted import Script
from workflows.contracts import names, stubs

STUBS: dict[str, Callable[..., Any]] = {
    names.CALL_MODEL: stubs.call_model,
    names.COMPACT: stubs.compact_history,
    names.SUBMIT_BATCH: stubs.submit_batch,
    names.COLLECT_BATCH: stubs.collect_batch,
    names.LEAVE_BATCH: stubs.leave_batch,
    names.RUN_TOOL: stubs.run_tool,
    names.WITHHOLD_RESULT: stubs.withhold_result,
    names.FIND_UNDOABLE: stubs.find_undoable,
    names.UNDO_EFFECT: stubs.undo_effect,
    names.ASK_PERSON: stubs.ask_person,
    names.CHECK_EDIT: stubs.check_edit,
    names.KEEP_RECORD: stubs.keep_record,
    names.CLOSE_RUN: stubs.close_run,
    names.RECALL: stubs.recall,
    names.REMEMBER: stubs.remember,
}
IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    names.CALL_MODEL: ModelActivities.call_model,
    names.COMPACT: ModelActivities.compact_history,
    names.SUBMIT_BATCH: BatchActivities.submit_batch,
    names.COLLECT_BATCH: BatchActivities.collect_batch,
    names.LEAVE_BATCH: BatchActivities.leave_batch,
    names.RUN_TOOL: ToolActivities.run_tool,
    names.WITHHOLD_RESULT: ToolActivities.withhold_result,
    names.FIND_UNDOABLE: UndoActivities.find_undoable,
    names.UNDO_EFFECT: UndoActivities.undo_effect,
    names.ASK_PERSON: QuestionActivities.ask_person,
    names.CHECK_EDIT: QuestionActivities.check_edit,
    names.KEEP_RECORD: RecordActivities.keep_record,
    names.CLOSE_RUN: RecordActivities.close_run,
    names.RECALL: MemoryActivities.recall,
    names.REMEMBER: MemoryActivities.remember,
}


def name_of(function: Callable[..., Any]) -> str | None:
    definition = activity._Definition.from_callable(function)
    return definition.name if definition else None


def signature_of(function: Callable[..., Any]) -> tuple[list[Any], Any]:
    """(parameter types, result type), without `self`."""
    hints = get_type_hints(function)
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]
    return [hints[name] for name in parameters], hints["return"]


def test_every_stub_is_here() -> None:
    found = {name_of(member) for _, member in inspect.getmembers(stubs, inspect.iscoroutinefunction)}
    assert found == set(STUBS) == set(IMPLEMENTATIONS)


@pytest.mark.parametrize("name", sorted(STUBS))
def test_an_implementation_has_the_name_and_the_signature_of_its_stub(name: str) -> None:
    assert name_of(STUBS[name]) == name_of(IMPLEMENTATIONS[name]) == name
    assert signature_of(STUBS[name]) == signature_of(IMPLEMENTATIONS[name])


def test_the_doubles_of_the_workflow_tests_have_the_signatures_of_the_stubs() -> None:
    doubles = {name_of(double): signature_of(double) for double in Script().activities}
    assert doubles == {name: signature_of(stub) for name, stub in STUBS.items()}


@pytest.mark.parametrize("name", sorted(STUBS))
async def test_a_stub_does_nothing_by_itself(name: str) -> None:
    with pytest.raises(NotImplementedError):
        await STUBS[name](None)
