"""How what callers ask at once is laid into one statement."""

from __future__ import annotations

import asyncio

from activities.inference.buckets import Alternative, Ask, Bucket, BucketKind, Demand, Measure
from activities.inference.limit_batches import Gathered, Pending, pack
from workflows.contracts.inference import Priority

REQUESTS = Bucket("provider:p requests/min", BucketKind.RATE, Measure.REQUESTS, 60.0)
TOKENS = Bucket("provider:p tokens/min", BucketKind.RATE, Measure.TOKENS, 6000.0)


def asked(ticket: str, tokens: float, priority: Priority = Priority.NORMAL) -> Pending:
    demands = (Demand(TOKENS, tokens), Demand(REQUESTS, 1))
    answer = asyncio.get_running_loop().create_future()
    return Pending(Ask(ticket, priority, (Alternative("p:m", demands),), 6.0, 120.0), answer)


async def test_what_asks_have_in_common_is_written_once() -> None:
    batch = pack(Gathered(), [asked("a:1", 10), asked("b:1", 20), asked("c:1", 10), asked("d:1", 10, Priority.URGENT)], {})
    assert batch.names == ["provider:p requests/min", "provider:p tokens/min"], "in the order they are locked in"
    assert batch.asks == (["a:1", "b:1", "c:1", "d:1"], [1, 2, 1, 3])
    assert batch.forms[0] == [2, 1, 1]
    assert batch.forms[4] == [1, 2, 3]
    assert batch.demands == ([2, 1] * 3, [10, 1, 20, 1, 10, 1])
