"""Summarising the older part of a conversation that no longer fits its model."""

from __future__ import annotations

from activities.inference.asking import Asked
from state.transcripts import BYTES_PER_TOKEN
from workflows.contracts.messages import Message, Role

INSTRUCTIONS = (
    "You keep the record of an agent's work. Summarise the conversation below so that the agent can go on from your summary alone: "
    "the request, every fact and id found, every action done and its result, what is still open. Write plain text."
)
MAX_SUMMARY_TOKENS = 1_000
MARK = "Summary of the work so far (the full record was too long):\n"
INPUT_SHARE = 0.5
"""The part of the window that the record to be summarised may fill, by the estimate; the rest is room for its error."""
MESSAGE_BYTES = 4_000
"""What one message keeps at most when the record itself has to be cut."""


def asked(max_output_tokens: int = MAX_SUMMARY_TOKENS) -> Asked:
    """The question that has a conversation summarised."""
    return Asked(
        instructions=INSTRUCTIONS,
        tools=(),
        output_schema=None,
        max_output_tokens=max_output_tokens,
        temperature=None,
        fold=as_record,
        may_overflow=True,
        task="summarise",
    )


def as_record(conversation: tuple[Message, ...], window_tokens: int) -> tuple[Message, ...]:
    """The conversation as one text that fits: long messages are cut first, then the oldest after the request are dropped."""
    room = int(window_tokens * INPUT_SHARE * BYTES_PER_TOKEN)
    lines = [_line(message, None) for message in conversation]
    if sum(map(_size, lines)) > room:
        lines = [_line(message, MESSAGE_BYTES) for message in conversation]
    kept: list[str] = []
    left = room - sum(map(_size, lines[:1]))
    for line in reversed(lines[1:]):
        left -= _size(line)
        if left < 0:
            kept.append("[earlier entries left out]")
            break
        kept.append(line)
    text = "\n\n".join([_head(line, room) for line in lines[:1]] + kept[::-1])
    return (Message(role=Role.USER, text=text),)


def _line(message: Message, limit_bytes: int | None) -> str:
    calls = "".join(f"\n  calls {call.name}({call.arguments})" for call in message.tool_calls)
    line = f"{message.role.value}: {message.text}{calls}"
    return line if limit_bytes is None else _head(line, limit_bytes)


def _head(text: str, limit_bytes: int) -> str:
    body = text.encode(errors="replace")
    return text if len(body) <= limit_bytes else body[:limit_bytes].decode(errors="ignore") + " [cut]"


def _size(line: str) -> int:
    """Its bytes, with the empty line that follows it."""
    return len(line.encode(errors="replace")) + 2
