"""What a provider's Batch API does in one test of a workflow."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from temporalio import activity

from workflows.contracts import names
from workflows.contracts.batches import BatchLook, BatchPlace, BatchState
from workflows.contracts.steps import ModelCallRequest

PLACE = BatchPlace(call_id=1, provider="scripted", gather_s=30, first_look_s=60, longest_look_s=1_800)

Brings = Callable[[BatchLook], BatchState]


class ScriptedBatches:
    """Places for those who ask, and what looks bring: the list's items in order, then nothing ever after."""

    def __init__(self) -> None:
        self.place = PLACE
        self.brings: deque[Brings] = deque()
        self.submitted: list[ModelCallRequest] = []
        self.looks: list[BatchLook] = []
        self.left: list[BatchLook] = []

    @property
    def activities(self) -> list[Callable[..., Any]]:
        """The doubles, under the real names."""
        return [self._submit_batch, self._collect_batch, self._leave_batch]

    @activity.defn(name=names.SUBMIT_BATCH)
    async def _submit_batch(self, request: ModelCallRequest) -> BatchPlace:
        self.submitted.append(request)
        return self.place

    @activity.defn(name=names.COLLECT_BATCH)
    async def _collect_batch(self, look: BatchLook) -> BatchState:
        self.looks.append(look)
        return self.brings.popleft()(look) if self.brings else BatchState()

    @activity.defn(name=names.LEAVE_BATCH)
    async def _leave_batch(self, look: BatchLook) -> None:
        self.left.append(look)
