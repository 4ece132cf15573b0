"""The simulated model of the benchmarks: calls `look_up` as often as the request says, then answers. Works for both sides."""

from __future__ import annotations

import re

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from workflows.contracts.messages import Role

LOOK_UPS = re.compile(r"look up (\d+) things")


def answer(request: SimulatedRequest) -> SimulatedAnswer:
    """One tool call after the other, then a short text."""
    asked = next(message.text for message in request.messages if message.role is Role.USER)
    wanted = int(found[1]) if (found := LOOK_UPS.search(asked)) else 2
    done = sum(message.role is Role.TOOL for message in request.messages)
    if done < wanted:
        return SimulatedAnswer(calls=(("look_up", {"number": done + 1}),))
    return SimulatedAnswer(text=f"Looked up {done} things.")
