"""A few random agents of the kill benchmark, under its kills: the small edition of `make bench NAME=kills`, on one seed."""

from __future__ import annotations

from benchmarks.kills import play
from workflows.contracts.runs import RunStatus

PROGRAMS = 10
SEED = 4_001


async def test_random_agents_under_kills_lose_nothing_and_do_and_pay_nothing_twice() -> None:
    account, _ = await play(PROGRAMS, SEED)
    assert account.kills >= 2
    assert account.fired, "no fault switch fired"
    assert sum(account.statuses.values()) == PROGRAMS, account.lost
    assert account.statuses[RunStatus.COMPLETED.value] > PROGRAMS / 2
    assert account.lost == []
    assert account.done_twice == []
    assert account.paid_twice == account.paid_twice_explained
    assert account.unreported == []
    assert account.orders_missing == 0
