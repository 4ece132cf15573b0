"""What people are told of a question or a dead letter, put into the outbox together with what happened."""

from __future__ import annotations

from typing import Any, Final

from state import notifications
from state.people import Question
from state.pool import Connection
from workflows.contracts.people import AskRequest, Filed, RecordRequest

ARGUMENTS_CHARS: Final = 4_000
_KINDS: Final = {"opened": "question", "reminder": "reminder", "escalated": "escalation"}
_WANTED: Final = {"approval": "a yes or no to", "question": "an answer to", "result": "a yes to the result of"}


async def of_question(connection: Connection, request: AskRequest, question: Question) -> None:
    """Tell of a question that is open, of a reminder, or of an escalation."""
    kind = _KINDS[request.occasion]
    whom = ", ".join(question.allowed) or "anybody"
    body: dict[str, Any] = {
        "kind": kind,
        "text": f"{question.agent} waits for {_WANTED[question.kind]} {question.tool} (run {question.run_id}, call {question.call_id}), "
        f"asked of {whom}" + (f", until {question.until:%Y-%m-%d %H:%M} UTC" if question.until else ""),
        "run_id": question.run_id,
        "call_id": question.call_id,
        "step": question.step,
        "wanted": question.kind,
        "agent": question.agent,
        "tenant": question.tenant,
        "user": question.user_id,
        "tool": question.tool,
        "arguments": question.arguments[:ARGUMENTS_CHARS],
        "version": question.version,
        "why": question.why,
        "reason": question.reason,
        "risk": question.risk,
        "allowed": question.allowed,
        "quorum": question.quorum,
        "since": question.since.isoformat(),
        "until": question.until.isoformat() if question.until else None,
        "reminder": request.number,
    }
    place = f"{request.run_id}:{request.step}:{request.asked}"
    number = f":{request.number}" if request.occasion == "reminder" else ""
    await notifications.put(connection, f"{place}:{kind}{number}", kind, request.run_id, body)


async def of_letter(connection: Connection, request: RecordRequest, filed: Filed) -> None:
    """Tell of a step that cannot go on."""
    parked = filed.parked
    body: dict[str, Any] = {
        "kind": "dead_letter",
        "text": f"{request.agent.name} cannot go on with {parked.what} (run {request.run_id}, step {parked.step}): "
        f"{parked.failure_class.value}: {parked.cause}",
        "run_id": request.run_id,
        "letter": parked.letter,
        "step": parked.step,
        "agent": request.agent.name,
        "tenant": request.tenant,
        "user": request.user,
        "what": parked.what,
        "failure_class": parked.failure_class.value,
        "cause": parked.cause,
        "since": filed.at.isoformat(),
    }
    await notifications.put(connection, f"{request.run_id}:letter:{parked.letter}", "dead_letter", request.run_id, body)
