"""Every history that a released version has recorded replays on the code as it is now."""

from __future__ import annotations

import base64
import inspect
import json
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

import worker
from client.temporal import DATA_CONVERTER
from telemetry.run_interceptor import RunInterceptor
from tests.replay import planted
from tests.replay.changed import Clocked, Grown, Hasty, Renamed
from tests.replay.record import HISTORIES
from tests.replay.shapes import SHAPES
from workflows.contracts import stubs

RECORDED = sorted(HISTORIES.glob("*/*.json"))
NOW = metadata.version("holdfast")

ACTIVITIES = sorted(name for name, stub in vars(stubs).items() if inspect.iscoroutinefunction(stub))

HOLDS: dict[str, dict[str, int]] = {
    "plain": {"ACTIVITY_TASK_COMPLETED": 3, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "parallel_tools": {"ACTIVITY_TASK_COMPLETED": 5, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "sub_agent": {"CHILD_WORKFLOW_EXECUTION_COMPLETED": 1, "ACTIVITY_TASK_COMPLETED": 3, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "sub_agents_own": {"ACTIVITY_TASK_COMPLETED": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "hand_over": {"ACTIVITY_TASK_COMPLETED": 4, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "approved_and_rejected": {"WORKFLOW_EXECUTION_UPDATE_COMPLETED": 3, "ask_person": 3, "run_tool": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "signalled": {"WORKFLOW_EXECUTION_SIGNALED": 5, "keep_record": 1, "run_tool": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "edited_by_a_quorum": {"WORKFLOW_EXECUTION_UPDATE_COMPLETED": 3, "check_edit": 1, "run_tool": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "question_answered": {"WORKFLOW_EXECUTION_UPDATE_COMPLETED": 2, "check_edit": 2, "call_model": 2, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "out_of_time": {"TIMER_FIRED": 4, "ask_person": 4, "WORKFLOW_EXECUTION_UPDATE_COMPLETED": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "asked_by_hooks": {"run_tool": 3, "ask_person": 2, "withhold_result": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "paused_and_resumed": {"WORKFLOW_EXECUTION_UPDATE_COMPLETED": 4, "run_tool": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "interrupted": {"ACTIVITY_TASK_CANCELED": 1, "call_model": 2, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "taken_over": {"ACTIVITY_TASK_CANCELED": 1, "call_model": 1, "close_run": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "stopped_with_undo": {"find_undoable": 1, "undo_effect": 2, "close_run": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "forked": {"call_model": 3, "run_tool": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "parked_and_redriven": {"WORKFLOW_EXECUTION_UPDATE_COMPLETED": 5, "ACTIVITY_TASK_FAILED": 4, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "aborted": {"close_run": 1, "ACTIVITY_TASK_CANCELED": 1, "WORKFLOW_EXECUTION_FAILED": 1},
    "cancelled": {"WORKFLOW_EXECUTION_CANCEL_REQUESTED": 1, "ACTIVITY_TASK_CANCELED": 1, "WORKFLOW_EXECUTION_CANCELED": 1},
    "corrected": {"ACTIVITY_TASK_COMPLETED": 7, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "retried": {"TIMER_FIRED": 1, "ACTIVITY_TASK_FAILED": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "summarised": {"ACTIVITY_TASK_COMPLETED": 5, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "in_a_batch": {"TIMER_FIRED": 4, "ACTIVITY_TASK_COMPLETED": 7, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "batch_left": {"submit_batch": 1, "leave_batch": 1, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "remembered": {"ACTIVITY_TASK_COMPLETED": 3, "WORKFLOW_EXECUTION_COMPLETED": 1},
    "continued_as_new": {"WORKFLOW_EXECUTION_CONTINUED_AS_NEW": 1},
    "continuation": {"WORKFLOW_EXECUTION_COMPLETED": 1},
}
"""What a history of each shape must at least hold, so that it is the shape that its name says: events, and activities by their names."""


def read(path: Path) -> WorkflowHistory:
    recorded = json.loads(path.read_text(encoding="utf-8"))
    return WorkflowHistory.from_json(recorded["workflow_id"], recorded["history"])


LIBRARIES = ("telemetry", "pydantic", "pydantic_core", "annotated_types", "structlog", "opentelemetry")
SANDBOX = SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*LIBRARIES))
"""Loads the workflows' own modules anew and refuses them clock, chance, files and environment."""


def replayer(*workflows: type, runner: WorkflowRunner | None = None) -> Replayer:
    return Replayer(
        workflows=workflows or worker.WORKFLOWS,
        data_converter=DATA_CONVERTER,
        workflow_runner=runner or worker.workflow_runner(),
        interceptors=[RunInterceptor()],
    )


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", RECORDED, ids=named)
async def test_a_recorded_history_replays(path: Path) -> None:
    await replayer().replay_workflow(read(path))


@pytest.mark.parametrize("path", RECORDED, ids=named)
async def test_a_recorded_history_replays_where_clock_and_chance_are_refused(path: Path) -> None:
    await replayer(runner=SANDBOX).replay_workflow(read(path))


async def test_a_workflow_that_reads_the_clock_is_found_out() -> None:
    with pytest.raises(RuntimeError, match=r"RestrictedWorkflowAccessError") as refused:
        await replayer(Clocked, runner=SANDBOX).replay_workflow(read(HISTORIES / NOW / "plain.json"))
    assert "time.time" in str(refused.value)


@pytest.mark.parametrize("path", RECORDED, ids=named)
async def test_a_workflow_that_decides_otherwise_is_found_out(path: Path) -> None:
    with pytest.raises(workflow.NondeterminismError):
        await replayer(Hasty).replay_workflow(read(path))


@pytest.mark.parametrize("path", RECORDED, ids=named)
async def test_a_workflow_that_decides_otherwise_behind_a_patch_replays(path: Path) -> None:
    await replayer(Grown).replay_workflow(read(path))


async def test_a_renamed_activity_is_found_out() -> None:
    with pytest.raises(workflow.NondeterminismError):
        await replayer(Renamed).replay_workflow(read(HISTORIES / NOW / "plain.json"))


def test_every_shape_is_recorded_for_this_version() -> None:
    recorded = {path.stem for path in (HISTORIES / NOW).glob("*.json")}
    assert recorded == set(HOLDS) >= set(SHAPES), "record them: python -m tests.replay.record"


@pytest.mark.parametrize("path", RECORDED, ids=named)
def test_a_history_holds_what_its_name_says(path: Path) -> None:
    found = Counter(str(event["eventType"]).removeprefix("EVENT_TYPE_") for event in events(path))
    scheduled = (event.get("activityTaskScheduledEventAttributes") for event in events(path))
    found.update(each["activityType"]["name"] for each in scheduled if each)
    for kind, count in HOLDS[path.stem].items():
        assert found[kind] >= count, f"{kind} in {found}"
    assert found["WORKFLOW_TASK_FAILED"] == 0


@pytest.mark.parametrize("path", RECORDED, ids=named)
def test_a_history_holds_neither_content_nor_secrets_nor_names_of_the_machine(path: Path) -> None:
    text = "\n".join(strings(events(path)))
    for place, word in planted.WORDS.items():
        assert word not in text, f"the {place} of the conversation"
    for place, key in planted.KEYS.items():
        assert key not in text, f"the key in the {place}"
    assert "/site-packages/" not in text
    assert set(identities(events(path))) <= {"recorder"}


def test_the_search_for_content_would_find_it() -> None:
    payload = base64.b64encode(f'{{"text": "{planted.text("result")}"}}'.encode()).decode()
    text = "\n".join(strings([{"result": {"payloads": [{"data": payload}]}}]))
    assert planted.WORDS["result"] in text
    assert planted.KEYS["result"] in text


@pytest.mark.parametrize("name", ["parked_and_redriven", "paused_and_resumed", "question_answered", "taken_over"])
def test_the_recorded_runs_did_handle_the_planted_keys(name: str) -> None:
    text = "\n".join(strings(events(HISTORIES / NOW / f"{name}.json")))
    assert "[redacted" in text


def test_a_forked_runs_history_holds_calls_that_were_done_before_it() -> None:
    assert '"done":true' in "\n".join(strings(events(HISTORIES / NOW / "forked.json")))


def test_every_activity_of_a_run_is_in_some_history() -> None:
    recorded = "\n".join(path.read_text(encoding="utf-8") for path in RECORDED)
    assert [name for name in ACTIVITIES if f'"name": "{name}"' not in recorded] == []


def events(path: Path) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["history"]["events"]
    assert isinstance(found, list)
    return found


def strings(value: Any) -> Iterator[str]:
    """Every text of a history, payloads decoded."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [base64.b64decode(item).decode()] if key == "data" and isinstance(item, str) else strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def identities(value: Any) -> Iterator[str]:
    """Every name of a process in a history."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from [item] if key == "identity" and isinstance(item, str) else identities(item)
    elif isinstance(value, list):
        for item in value:
            yield from identities(item)
