"""The simulated model of the redrive benchmark: books what it is asked to, then says so."""

from __future__ import annotations

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from workflows.contracts.messages import Role


def answer(request: SimulatedRequest) -> SimulatedAnswer:
    """One booking, then a short text."""
    results = [message.text for message in request.messages if message.role is Role.TOOL]
    if results:
        return SimulatedAnswer(text=f"Done: {results[0]}.")
    asked = next(message.text for message in request.messages if message.role is Role.USER)
    return SimulatedAnswer(calls=(("book", {"order": asked}),))
