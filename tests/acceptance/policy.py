"""A simulated model that does what the request says: each line `call NAME {json}` is one turn, `&` joins calls of one turn."""

from __future__ import annotations

import json

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from workflows.contracts.messages import Role


def answer(request: SimulatedRequest) -> SimulatedAnswer:
    """The next line's calls, or a closing sentence."""
    asked = next(message.text for message in request.messages if message.role is Role.USER)
    turns = [line.removeprefix("call ") for line in asked.splitlines() if line.startswith("call ")]
    done = sum(message.role is Role.ASSISTANT for message in request.messages)
    if done < len(turns):
        return SimulatedAnswer(calls=tuple(_call(part) for part in turns[done].split(" & ")))
    results = [message.text for message in request.messages if message.role is Role.TOOL]
    return SimulatedAnswer(text="Done: " + "; ".join(results))


def _call(text: str) -> tuple[str, dict[str, object]]:
    name, _, arguments = text.partition(" ")
    return name, json.loads(arguments)
