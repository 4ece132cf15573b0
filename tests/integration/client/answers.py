"""What the simulated provider says in the tests of the command line: it does what the first message says, once, and then answers."""

from __future__ import annotations

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from workflows.contracts.messages import Role


def answer(request: SimulatedRequest) -> SimulatedAnswer:
    """`wait N`, `pay N`, `look` call a tool; `mumble` gives an answer that is none; all else is answered at once."""
    said = next(message.text for message in request.messages if message.role is Role.USER)
    results = [message.text for message in request.messages if message.role is Role.TOOL]
    word, _, number = said.partition(" ")
    calls = {
        "wait": ("wait", {"seconds": float(number or 0)} if word == "wait" else {}),
        "pay": ("refund", {"order_id": "W17", "amount_usd": number}),
        "look": ("find_order", {"order_id": "W17"}),
    }
    if word in calls and not results:
        return SimulatedAnswer(calls=(calls[word],))
    return SimulatedAnswer(text="" if word == "mumble" else f"You said {said!r}. {' '.join(results)}".strip())
