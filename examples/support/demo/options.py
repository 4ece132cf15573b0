"""What the demo is asked for on its command line."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[1]
HIGHEST_SEED = 9_999


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, read."""

    tickets: Path
    shop: Path
    keep: bool
    model: str | None
    """`provider:model` of a real model; None for the simulated one."""
    seed: int
    kill: bool
    timeout_s: float
    surge: bool = False


def read_options(arguments: Sequence[str]) -> Options:
    """Read the command line; a wrong one ends the process with status 2 and the usage."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.support.demo",
        description="Support tickets on a small shop, a worker killed in the middle, and the proof that nothing was lost or done twice.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--tickets", type=Path, default=EXAMPLE / "tickets.jsonl", help="JSON lines with id, reason_for_call, known_info, unknown_info")
    add("--shop", type=Path, default=EXAMPLE / "shop.json", help="a shop with products, users and orders")
    add("--keep", action="store_true", help="stay up at the end, for a look at the Temporal Web UI; Ctrl-C ends it")
    add(
        "--model",
        metavar="PROVIDER:MODEL",
        help="a real model, as in openai:gpt-5-mini; its key is read from the environment, and it costs",
    )
    add("--seed", type=int, help="decides the moment of the kill and the simulated latencies; without it a random one, which is printed")
    add("--no-kill", action="store_true", help="let the worker live")
    add(
        "--surge",
        action="store_true",
        help="all tickets several times at once, under limits that bind; shows limiter, waits, tiers and cost",
    )
    add("--timeout", type=float, default=600, metavar="SECONDS", help="when to stop waiting for runs (default 600)")
    given = parser.parse_args(arguments)
    if given.model is not None and ":" not in given.model:
        parser.error(f"--model must be PROVIDER:MODEL, as in openai:gpt-5-mini; it is {given.model!r}")
    seed = random.randint(1, HIGHEST_SEED) if given.seed is None else given.seed
    return Options(given.tickets, given.shop, given.keep, given.model, seed, not given.no_kill, given.timeout, given.surge)
