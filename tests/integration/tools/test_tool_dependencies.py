"""What `@provide` gives: opened once, shared, closed when nobody uses it; trouble with it never touches the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect
from workflows.contracts.errors import FailureClass, SettingsError, StepError
from workflows.contracts.tools import Provided, ToolContext, provide, tool


class Shop:
    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = asyncio.Event()


class Journal:
    def __init__(self) -> None:
        self.opened: list[Shop] = []
        self.tasks: list[asyncio.Task[None] | None] = []


@tool(effect=Effect.ONCE)
async def look(order_id: str, shop: Provided[Shop]) -> str:
    """Look."""
    return f"{order_id} at {shop.name}"


def shop_provider(journal: Journal, name: str = "first"):  # type: ignore[no-untyped-def]
    @provide
    async def shop() -> AsyncIterator[Shop]:
        opened = Shop(name)
        journal.opened.append(opened)
        journal.tasks.append(asyncio.current_task())
        yield opened
        journal.tasks.append(asyncio.current_task())
        opened.closed.set()

    return shop


async def test_a_dependency_is_opened_when_first_asked_for_and_shared(desk: Desk) -> None:
    journal = Journal()
    worker = desk.worker(look, providers=[shop_provider(journal)])
    assert journal.opened == []
    requests = [await desk.asked(look.spec, {"order_id": f"W{number}"}) for number in range(4)]
    outcomes = await asyncio.gather(*(Attempt().begin(worker, request) for request in requests))
    assert [outcome.preview for outcome in outcomes] == [f"W{number} at first" for number in range(4)]
    assert len(journal.opened) == 1
    await desk.close()
    assert journal.opened[0].closed.is_set()
    assert journal.tasks[0] is journal.tasks[1], "opened and closed in one task"


async def test_a_replaced_dependency_is_closed_when_its_last_call_has_ended(desk: Desk) -> None:
    began, go_on, journal = asyncio.Event(), asyncio.Event(), Journal()

    @tool
    async def slow(shop: Provided[Shop]) -> str:
        """Look slowly."""
        began.set()
        await go_on.wait()
        return f"{shop.name}, closed: {shop.closed.is_set()}"

    worker = desk.worker(slow, providers=[shop_provider(journal)])
    running = Attempt().begin(worker, await desk.asked(slow.spec, {}))
    await began.wait()
    worker.toolbox.take({"slow": slow}, [shop_provider(journal, "second")])
    go_on.set()
    assert (await running).preview == "first, closed: False"
    assert (await desk.attempt(worker, await desk.asked(slow.spec, {}))).preview == "second, closed: False"
    async with asyncio.timeout(5):
        await journal.opened[0].closed.wait()
    assert not journal.opened[1].closed.is_set()


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [(ConnectionError("no database"), FailureClass.TRANSIENT), (SettingsError("SHOP_URL is not set"), FailureClass.CALLER)],
)
async def test_a_dependency_that_cannot_be_opened_is_named_and_nothing_is_entered(
    desk: Desk, error: Exception, failure_class: FailureClass
) -> None:
    tries = []

    @provide
    async def shop() -> AsyncIterator[Shop]:
        tries.append(1)
        if len(tries) == 1:
            raise error
        yield Shop("late")

    worker, request = desk.worker(look, providers=[shop]), await desk.asked(look.spec, {"order_id": "W1"})
    with pytest.raises(StepError, match="Shop, which tool look needs, could not be opened") as failed:
        await desk.attempt(worker, request)
    assert failed.value.failure_class is failure_class
    assert str(error) in str(failed.value)
    assert await desk.row(look, request=request) is None
    assert (await desk.attempt(worker, request, attempt=2)).preview == "W1 at late"


async def test_a_dependency_that_nobody_provides_is_named(desk: Desk) -> None:
    with pytest.raises(StepError, match="Tool look wants a Shop, which no @provide function"):
        await desk.attempt(desk.worker(look), await desk.asked(look.spec, {"order_id": "W1"}))


async def test_a_check_gets_dependencies_and_the_context_too(desk: Desk) -> None:
    seen = []

    async def was_paid(order_id: str, shop: Provided[Shop], context: ToolContext) -> str | None:
        seen.append((shop.name, context.idempotency_key))
        return f"{order_id} was paid"

    @tool(effect=Effect.ONCE, check=was_paid)
    async def pay(order_id: str, amount: int = 1) -> str:
        """Pay."""
        raise RuntimeError("line cut")

    worker, request = desk.worker(pay, providers=[shop_provider(Journal())]), await desk.asked(pay.spec, {"order_id": "W1", "amount": 3})
    assert (await desk.attempt(worker, request)).preview == "W1 was paid"
    assert seen == [("first", f"{request.run_id}:2")]
