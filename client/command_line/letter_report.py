"""One dead letter on a terminal: why, what lay behind it, its input, what was tried, and the commands by which it goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from client.command_line.terminal import clock, one_cell, put, put_table
from workflows.contracts.errors import FailureClass

if TYPE_CHECKING:
    from state.dead_letter_lists import DeadLetter


def put_letter(letter: DeadLetter) -> None:
    """Tell all of it."""
    for line in _head(letter):
        put(line)
    put("")
    for line in _input(letter.input):
        put(line)
    if letter.tried:
        put("")
        _tried(letter.tried)
    put("")
    for line in _end(letter):
        put(line)


def _head(letter: DeadLetter) -> Iterator[str]:
    user = f", user {letter.user_id}" if letter.user_id else ""
    yield f"{letter.id}: {letter.what}, step {letter.step} of {letter.agent} {letter.agent_version} (tenant {letter.tenant}{user})"
    yield f"parked {clock(letter.parked_at)}, model {letter.model}, definition {letter.definition_hash[:12]}"
    yield f"class {letter.failure_class}: {one_cell(letter.cause)}"
    for behind in letter.chain:
        yield f"  from {one_cell(behind)}"


def _input(given: dict[str, Any]) -> Iterator[str]:
    if given.get("kind") == "tool_call":
        edited = f", version {given['version']}" if given.get("version", 1) > 1 else ""
        cut = " (cut)" if given.get("cut") else ""
        yield f"input: {given.get('name')}{edited} {one_cell(str(given.get('arguments')))}{cut}"
        return
    yield "input: the conversation up to there, which ends with"
    for message in given.get("messages", ()):
        calls = f" [calls {', '.join(message['calls'])}]" if message.get("calls") else ""
        yield f"  step {message['step']} {message['role']}: {one_cell(message.get('head') or '')}{calls}"


def _tried(tried: list[dict[str, Any]]) -> None:
    put("tried:")
    if "attempt" in tried[0]:
        rows = [[str(each["attempt"]), each["model"], each["state"], each.get("failure") or ""] for each in tried]
        put_table(["attempt", "model", "state", "what"], rows)
        return
    rows = [[each["tool"], each["key"], each["state"], str(each["attempts"]), each.get("reason") or ""] for each in tried]
    put_table(["tool", "key", "state", "attempts", "what"], rows)


def _end(letter: DeadLetter) -> Iterator[str]:
    if letter.state != "open":
        reason = f": {one_cell(letter.reason)}" if letter.reason else ""
        yield f"{letter.state} by {letter.settled_by} at {clock(letter.settled_at)}{reason}"
        if letter.result:
            yield f"with the result: {one_cell(letter.result)}"
        return
    command = "holdfast dead-letters"
    if letter.letter >= 0:
        yield f"{command} redrive {letter.id}"
    if letter.tool is not None:
        yield f"{command} skip {letter.id} --result TEXT"
    if letter.failure_class == FailureClass.UNKNOWN_OUTCOME:
        yield f"{command} not-done {letter.id}"
    if letter.letter >= 0:
        yield f"{command} abort {letter.id}"
