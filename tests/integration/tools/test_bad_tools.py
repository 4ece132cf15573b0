"""Tools that raise, hang, return too much or what cannot be written, and calls that fit nothing: each is told, none hurts the worker."""

from __future__ import annotations

import asyncio
import contextvars
import time
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from threading import Event, current_thread
from typing import Any

import pytest

from state import blobs
from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import Effect, Limits
from workflows.contracts.errors import FailureClass, StepError, ToolError
from workflows.contracts.redaction import add_secrets
from workflows.contracts.runs import TOOL_RESULT_LIMIT_BYTES
from workflows.contracts.steps import ToolOutcome
from workflows.contracts.tools import Tool, ToolContext, tool


@dataclass
class Told:
    """What came of one call."""

    outcome: ToolOutcome
    text: str


async def call(desk: Desk, one: Tool[..., Any], arguments: Any = None, **options: Any) -> Told:
    """Make one call and read what the model is told."""
    request = await desk.asked(one.spec, {} if arguments is None else arguments)
    outcome = await desk.attempt(desk.worker(one), request, **options)
    message = await desk.told(request)
    assert message is not None
    assert message.is_error is not outcome.ok
    return Told(outcome, message.text)


def returning(value: Any, effect: Effect = Effect.PURE) -> Tool[..., Any]:
    @tool(effect=effect)
    def give() -> Any:
        """Give something."""
        return value

    return give


class Opaque:
    """Nothing that JSON knows."""


@dataclass
class Order:
    order_id: str
    total: Decimal
    placed: date


async def test_a_raising_tool_is_told_to_the_model_by_class_and_message_without_secrets(desk: Desk) -> None:
    add_secrets(["hunter2-hunter2"])

    @tool
    async def look(order_id: str) -> str:
        """Look."""
        raise LookupError("login with hunter2-hunter2 failed")

    told = await call(desk, look, {"order_id": "W1"})
    assert told.text.startswith("look failed: LookupError: login with [redacted")
    assert "hunter2" not in told.outcome.preview


async def test_a_pure_tool_is_retried_as_it_declares_and_then_told(desk: Desk) -> None:
    @tool(retries=2)
    async def look() -> str:
        """Look."""
        raise ConnectionError("line cut")

    request, worker = await desk.asked(look.spec, {}), desk.worker(look)
    for attempt in (1, 2):
        with pytest.raises(StepError) as retried:
            await desk.attempt(worker, request, attempt=attempt)
        assert (retried.value.failure_class, str(retried.value)) == (FailureClass.TRANSIENT, "look: ConnectionError: line cut")
    assert (await desk.attempt(worker, request, attempt=3)).preview == "look failed: ConnectionError: line cut"


async def test_a_tool_error_is_told_as_it_is_and_not_retried(desk: Desk) -> None:
    @tool(retries=2)
    def look() -> str:
        """Look."""
        raise ToolError("No such order.")

    assert (await call(desk, look)).text == "No such order."


async def test_a_tool_that_hangs_is_given_up_after_its_time_and_cancelled(desk: Desk) -> None:
    cancelled = asyncio.Event()

    @tool(timeout_s=0.05)
    async def hang() -> str:
        """Hang."""
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    assert (await call(desk, hang)).text == "hang failed: it took longer than 0.05 s"
    assert cancelled.is_set()


async def test_a_tools_own_time_out_is_not_called_ours(desk: Desk) -> None:
    @tool
    async def look() -> str:
        """Look."""
        raise TimeoutError("the shop did not answer")

    assert (await call(desk, look)).text == "look failed: the shop did not answer"


async def test_sync_tools_that_hang_stop_neither_the_worker_nor_the_next_call(desk: Desk) -> None:
    release, threads = Event(), []

    @tool(timeout_s=0.05)
    def hang() -> str:
        """Hang."""
        threads.append(current_thread())
        release.wait(30)
        return "late"

    worker = desk.worker(hang, returning("quick"))
    hanging = [Attempt().begin(worker, await desk.asked(hang.spec, {})) for _ in range(40)]
    texts = {(await one).preview for one in hanging}
    assert texts == {"hang failed: it took longer than 0.05 s, and cannot be stopped"}
    quick = await desk.asked(returning("quick").spec, {})
    assert (await desk.attempt(worker, quick)).preview == "quick"
    assert len(threads) == 40
    assert all(thread.daemon and thread.is_alive() for thread in threads)
    release.set()


async def test_a_once_tool_that_goes_on_in_its_thread_is_not_asked_for_its_check(desk: Desk) -> None:
    release, asked = Event(), []

    def was_done() -> str | None:
        asked.append(1)
        return None

    @tool(effect=Effect.ONCE, timeout_s=0.05, check=was_done)
    def pay() -> str:
        """Pay."""
        release.wait(30)
        return "paid"

    request, worker = await desk.asked(pay.spec, {}), desk.worker(pay)
    with pytest.raises(StepError) as parked:
        await desk.attempt(worker, request)
    release.set()
    assert (parked.value.failure_class, asked) == (FailureClass.UNKNOWN_OUTCOME, [])


async def test_sync_tools_run_beside_the_event_loop_and_see_its_context(desk: Desk) -> None:
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")

    @tool
    def slow() -> str:
        """Work."""
        time.sleep(0.2)
        return who.get()

    who.set("the caller")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticking = asyncio.create_task(tick())
    assert (await call(desk, slow)).text == "the caller"
    ticking.cancel()
    assert ticks >= 3


async def test_a_tool_that_would_end_the_process_ends_only_itself(desk: Desk) -> None:
    @tool
    async def leave() -> str:
        """Leave."""
        raise SystemExit(3)

    @tool
    def leave_too() -> str:
        """Leave."""
        raise SystemExit(3)

    assert (await call(desk, leave)).text == "leave failed: RuntimeError: called sys.exit(3)"
    assert (await call(desk, leave_too)).text == "leave_too failed: RuntimeError: called sys.exit(3)"


async def test_a_result_of_5_mb_is_kept_whole_and_the_model_sees_its_head(desk: Desk) -> None:
    body = "0123456789" * 524_288
    request = await desk.asked(returning(body).spec, {})
    outcome = await desk.attempt(desk.worker(returning(body)), request)
    assert outcome.result_bytes == len(body) == 5_242_880
    told = await desk.told(request)
    assert told is not None
    assert told.text.startswith("0123456789")
    assert told.text.endswith(f"[cut here: the whole result has 5242880 bytes, a model is shown the first {TOOL_RESULT_LIMIT_BYTES}]")
    blob_id = await desk.database.fetchval("select blob_id from transcript where run_id = $1 and step = 2", request.run_id)
    assert await blobs.get(desk.database, blob_id) == body.encode()
    assert await desk.attempt(desk.worker(returning(body)), request, attempt=2) == outcome


async def test_a_large_result_of_an_effect_is_reused_with_its_blob(desk: Desk) -> None:
    @tool(effect=Effect.ONCE, key="order_id")
    async def export(order_id: str) -> str:
        """Export."""
        return "x" * 100_000

    worker = desk.worker(export)
    first = await desk.attempt(worker, await desk.asked(export.spec, {"order_id": "W1"}))
    second = await desk.attempt(worker, await desk.asked(export.spec, {"order_id": "W1"}))
    assert (second.reused, second.result_bytes, second.result_hash) == (True, 100_000, first.result_hash)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, "done"),
        ({"a": [1, Decimal("2.50")]}, '{"a":[1,"2.50"]}'),
        (Order("W1", Decimal("9.90"), date(2026, 1, 2)), '{"order_id":"W1","total":"9.90","placed":"2026-01-02"}'),
        (
            Limits(steps=3).model_copy(update={"cost_usd": Decimal("0.5")}),
            '{"steps":3,"calls":50,"tokens":1000000,"cost_usd":"0.5","time_s":3600.0,"corrections":3,"repeats":3}',
        ),
        ("half \ud83d surrogate, zero \x00 byte", "half ? surrogate, zero  byte"),
    ],
)
async def test_what_a_tool_returns_is_written_as_text_or_json(desk: Desk, value: Any, text: str) -> None:
    assert (await call(desk, returning(value))).text == text


@pytest.mark.parametrize("value", [Opaque(), {"order": Opaque()}, b"\xff\xfe", object])
async def test_what_cannot_be_written_is_told_by_its_type(desk: Desk, value: Any) -> None:
    told = await call(desk, returning(value))
    assert not told.outcome.ok
    assert told.text.startswith(f"The tool ran, but returned a {type(value).__name__}, which cannot be written as JSON (")


async def test_a_result_that_contains_itself_is_told_too(desk: Desk) -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "cannot be written as JSON" in (await call(desk, returning(loop))).text


async def test_an_effect_whose_result_is_lost_was_done_all_the_same_and_the_model_must_not_repeat_it(desk: Desk) -> None:
    told = await call(desk, returning(Opaque(), Effect.ONCE))
    assert told.outcome.ok
    assert told.text.endswith("Its work is done: do not call it again for this.")


async def test_arguments_that_fit_no_schema_are_told_with_field_and_remedy_and_nothing_runs(desk: Desk) -> None:
    ran = []

    @tool(effect=Effect.ONCE, key="order_id")
    async def refund(order_id: str, amount_usd: Decimal) -> str:
        """Pay back."""
        ran.append(order_id)
        return "paid"

    for raw in (
        {"order_id": "W1"},
        {"order_id": "W1", "amount_usd": "much"},
        {"order_id": "W1", "amuont_usd": 1},
        "[1]",
        "{",
        '{"a":"\\u0000"}',
    ):
        told = await call(desk, refund, raw)
        assert not told.outcome.ok
        assert told.text.startswith("the arguments do not fit:")
        assert "the fields order_id (required), amount_usd (required)" in told.text
    assert ran == []
    assert await desk.state(refund, "order_id=W1") == "failed"


async def test_a_worker_without_the_tool_leaves_the_call_to_another(desk: Desk) -> None:
    pay = returning("paid", Effect.ONCE)
    request = await desk.asked(pay.spec, {})
    with pytest.raises(StepError, match="This worker has no tool 'give': start one with the --agents folder") as missing:
        await desk.attempt(desk.worker(), request)
    assert missing.value.failure_class is FailureClass.TRANSIENT
    assert await desk.row(pay, request=request) is None
    assert (await desk.attempt(desk.worker(pay), request, attempt=2)).ok


async def test_code_that_became_stricter_since_the_run_began_is_believed(desk: Desk) -> None:
    old, new = returning("paid", Effect.PURE), returning("paid", Effect.ONCE)
    request = await desk.asked(old.spec, {})
    assert (await desk.attempt(desk.worker(new), request)).ok
    assert await desk.state(new, request=request) == "succeeded"


async def test_a_tool_knows_its_run_and_its_heartbeats_are_bounded_and_redacted(desk: Desk) -> None:
    seen: list[ToolContext] = []

    @tool
    async def look(context: ToolContext) -> str:
        """Look."""
        seen.append(context)
        context.heartbeat("x" * 5_000, 3, None, {"password": "hunter2-hunter2"}, Opaque())
        context.log.info("shop.looked", hits=1)
        return "seen"

    request = await desk.asked(look.spec, {})
    await desk.attempt(desk.worker(look), request, attempt=3)
    context = seen[0]
    assert (context.run_id, context.step, context.tenant, context.user) == (request.run_id, 2, desk.tenant, "u1")
    assert (context.agent, context.attempt, context.idempotency_key) == ("tester", 3, f"{request.run_id}:2")
