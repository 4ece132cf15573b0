"""Random agents for the kill tests: what a run is asked to do, by seed; and the simulated model that does it."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from devstack.simulated_provider.policy import SimulatedAnswer, SimulatedRequest
from workflows.contracts.messages import Role

SHARED_ORDERS = 25
"""How many orders the runs of one benchmark want to pay together, by their business key."""


@dataclass(frozen=True)
class Program:
    """What one run is asked: a line a turn, calls of one turn joined by `&`."""

    seed: int
    text: str


def program(seed: int) -> Program:
    """The program of a seed: two to six turns of one to three calls."""
    chance = random.Random(seed)
    return Program(seed, "\n".join("call " + " & ".join(_calls(chance, seed, turn)) for turn in range(chance.randint(2, 6))))


def _calls(chance: random.Random, seed: int, turn: int) -> list[str]:
    return [_call(chance, f"o{seed}-{turn}-{place}") for place in range(chance.choice((1, 1, 1, 2, 3)))]


def _call(chance: random.Random, order: str) -> str:
    name = chance.choices(
        ("look_up", "note_down", "pay", "pay_checked", "refund", "pay_shared", "stumble", "helper", "ask_person"),
        weights=(3, 3, 3, 3, 3, 1, 2, 1, 1),
    )[0]
    arguments: dict[str, object] = {"order": order}
    if name == "look_up":
        arguments = {"number": chance.randint(1, 10**6)}
    elif name == "note_down":
        arguments = {"text": order}
    elif name == "refund":
        arguments["amount"] = chance.choice((10, 60))
    elif name == "pay_shared":
        arguments = {"order": f"shared-{chance.randrange(SHARED_ORDERS)}"}
    elif name == "stumble":
        arguments["times"] = chance.choice((-1, 1, 1, 2))
    elif name == "helper":
        inner = chance.choice(("pay_checked", "note_down"))
        argument = {"order": f"{order}-h"} if inner == "pay_checked" else {"text": f"{order}-h"}
        arguments = {"request": f"call {inner} {json.dumps(argument)}"}
    elif name == "ask_person":
        arguments = {"question": f"Go on with {order}?", "choices": ["yes", "no"]}
    return f"{name} {json.dumps(arguments)}"


def answer(request: SimulatedRequest) -> SimulatedAnswer:
    """The simulated model: the next line's calls, or a closing sentence."""
    asked = next(message.text for message in request.messages if message.role is Role.USER)
    turns = [line.removeprefix("call ") for line in asked.splitlines() if line.startswith("call ")]
    done = sum(message.role is Role.ASSISTANT for message in request.messages)
    if done >= len(turns):
        return SimulatedAnswer(text=f"Done after {done} turns.")
    calls = [part.partition(" ") for part in turns[done].split(" & ")]
    return SimulatedAnswer(calls=tuple((name, json.loads(arguments)) for name, _, arguments in calls))
