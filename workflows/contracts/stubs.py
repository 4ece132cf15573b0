"""The activities as workflows see them: names and types; the bodies are in `activities/`, registered under the same names."""

from __future__ import annotations

from temporalio import activity

from workflows.contracts import names
from workflows.contracts.batches import BatchLook, BatchPlace, BatchState
from workflows.contracts.people import (
    Asked,
    AskRequest,
    CloseRequest,
    Edited,
    EditRequest,
    RecordRequest,
    Undoable,
    UndoRequest,
    WithholdRequest,
)
from workflows.contracts.steps import CompactOutcome, MemoryRequest, ModelCallRequest, ModelTurn, Recalled, ToolOutcome, ToolRunRequest


@activity.defn(name=names.CALL_MODEL)
async def call_model(request: ModelCallRequest) -> ModelTurn:
    """Answer one step by a model; a response that is paid already is given again."""
    raise NotImplementedError


@activity.defn(name=names.SUBMIT_BATCH)
async def submit_batch(request: ModelCallRequest) -> BatchPlace:
    """Put one step's model call among those that are gathered for a batch, its worst case reserved."""
    raise NotImplementedError


@activity.defn(name=names.COLLECT_BATCH)
async def collect_batch(look: BatchLook) -> BatchState:
    """Hand the batch in, or look at it; what it has brought is recorded for every run in it."""
    raise NotImplementedError


@activity.defn(name=names.LEAVE_BATCH)
async def leave_batch(look: BatchLook) -> None:
    """Give the call up: nobody waits for its answer any more."""
    raise NotImplementedError


@activity.defn(name=names.RUN_TOOL)
async def run_tool(request: ToolRunRequest) -> ToolOutcome:
    """Run one tool call under the effect ledger."""
    raise NotImplementedError


@activity.defn(name=names.RECALL)
async def recall(request: MemoryRequest) -> Recalled:
    """Put what is remembered before the conversation."""
    raise NotImplementedError


@activity.defn(name=names.REMEMBER)
async def remember(request: MemoryRequest) -> None:
    """Keep the question and the answer for later runs."""
    raise NotImplementedError


@activity.defn(name=names.COMPACT)
async def compact_history(request: ModelCallRequest) -> CompactOutcome:
    """Have the older part of the conversation summarised; a summary that is paid already is found again."""
    raise NotImplementedError


@activity.defn(name=names.ASK_PERSON)
async def ask_person(request: AskRequest) -> Asked:
    """Put a question into the inbox and tell whom it concerns; asked again it reminds or escalates."""
    raise NotImplementedError


@activity.defn(name=names.CHECK_EDIT)
async def check_edit(request: EditRequest) -> Edited:
    """Hold a person's arguments, answer or input against what they must fit, and keep them as a new version when they do."""
    raise NotImplementedError


@activity.defn(name=names.KEEP_RECORD)
async def keep_record(request: RecordRequest) -> None:
    """Append what people ordered to the audit record, file dead letters, settle what is settled."""
    raise NotImplementedError


@activity.defn(name=names.CLOSE_RUN)
async def close_run(request: CloseRequest) -> None:
    """Withdraw what a run asked, write a person's answer, report effects of unknown outcome."""
    raise NotImplementedError


@activity.defn(name=names.FIND_UNDOABLE)
async def find_undoable(request: CloseRequest) -> list[Undoable]:
    """The run's effects that were done and can be undone, the last first."""
    raise NotImplementedError


@activity.defn(name=names.UNDO_EFFECT)
async def undo_effect(request: UndoRequest) -> ToolOutcome:
    """Undo one effect, under the ledger as an effect of its own."""
    raise NotImplementedError


@activity.defn(name=names.WITHHOLD_RESULT)
async def withhold_result(request: WithholdRequest) -> None:
    """Put a person's words in place of a result that the model has yet to see."""
    raise NotImplementedError
