"""A hundred dead letters redriven by one command, the worker killed twice on the way and the command once: none twice, none forgotten."""

from __future__ import annotations

import pytest

from benchmarks import redrive
from devstack.stack import RunningStack

LETTERS = 100
RATE_PER_S = 20.0


@pytest.mark.slow
async def test_a_bulk_redrive_under_kills_gives_none_twice_and_forgets_none(stack: RunningStack) -> None:
    account = await redrive.play(stack, LETTERS, RATE_PER_S)

    assert (account.worker_kills, account.command_kills) == (2, 1), "the kills must have happened to prove anything"
    assert (account.redriven, account.twice, account.forgotten) == (LETTERS, 0, 0)
    assert account.ordered_s > (1 - redrive.COMMAND_KILL) * LETTERS / RATE_PER_S, "no faster than the rate"
