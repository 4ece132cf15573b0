"""The activities that carry knowledge from one run to the next."""

from __future__ import annotations

from temporalio import activity

from state import memories, transcripts
from state.pool import Database
from workflows.contracts import names
from workflows.contracts.steps import MemoryRequest, Recalled

KEPT_CHARS = 2_000
"""What a memory keeps of the question, and of the answer."""


class MemoryActivities:
    """`recall` and `remember`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name=names.RECALL)
    async def recall(self, request: MemoryRequest) -> Recalled:
        """Put what is remembered before the conversation."""
        count = await memories.recall(
            self._database,
            tenant=request.tenant,
            scope=request.agent.memory.scope,
            owner=_owner(request),
            run_id=request.run_id,
            agent=request.agent.name,
            limit=request.agent.memory.recall,
        )
        return Recalled(count=count)

    @activity.defn(name=names.REMEMBER)
    async def remember(self, request: MemoryRequest) -> None:
        """Keep the question and the answer for later runs."""
        question = await transcripts.message_at(self._database, request.run_id, 0)
        answer = await transcripts.message_at(self._database, request.run_id, request.step)
        if question is None or answer is None:
            return
        text = f"Asked: {question.text[:KEPT_CHARS]}\nAnswered: {answer.text[:KEPT_CHARS]}"
        await memories.keep(
            self._database,
            tenant=request.tenant,
            scope=request.agent.memory.scope,
            owner=_owner(request),
            run_id=request.run_id,
            text=text,
        )


def _owner(request: MemoryRequest) -> str:
    """Whose memory it is; without a user, the run's own, so that strangers never share one."""
    match request.agent.memory.scope:
        case "agent":
            return request.agent.name
        case "tenant":
            return request.tenant
        case "user":
            return request.user or request.run_id
