"""Hooks: they stop calls before the ledger hears of them, and results before the model does; a broken one lets nothing through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from state import held_results
from tests.integration.tools.desk import Attempt, Desk
from workflows.contracts.agents import ApprovalPolicy, Effect, HttpCall, ToolKind, ToolSpec
from workflows.contracts.errors import FailureClass, StepError, ToolError
from workflows.contracts.hooks import Ask, Deny, after, before
from workflows.contracts.people import WithholdRequest
from workflows.contracts.steps import AskedByHook
from workflows.contracts.tools import Provided, Tool, ToolContext, provide, tool

Seen = list[Any]


def refund_tool(done: Seen, **options: Any) -> Tool[..., Any]:
    @tool(**{"effect": Effect.ONCE, "key": "order_id", **options})
    async def refund(order_id: str, amount: Decimal = Decimal(5)) -> str:
        """Pay back."""
        done.append(order_id)
        return f"{order_id}: account 4711"

    return refund


def saying(verdict: Any, when: Callable[..., Any] = before, seen: Seen | None = None) -> Callable[..., Any]:
    @when("refund")
    def guard(arguments: dict[str, Any], tool: str, context: ToolContext) -> Any:
        if seen is not None:
            seen.append((tool, arguments, context.user, context.idempotency_key))
        if isinstance(verdict, BaseException):
            raise verdict
        return verdict() if callable(verdict) else verdict

    return guard


async def test_a_hook_that_says_nothing_lets_the_call_and_its_result_through(desk: Desk) -> None:
    done, seen = [], []  # type: ignore[var-annotated]
    refund = refund_tool(done)

    @after("*")
    async def look(result: str, arguments: dict[str, Any]) -> None:
        seen.append((result, arguments))

    worker = desk.worker(refund, hooks=[saying(None, seen=seen), look])
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    outcome = await desk.attempt(worker, request)
    assert (outcome.ok, outcome.ask, outcome.preview, done) == (True, None, "W1: account 4711", ["W1"])
    arguments = {"order_id": "W1", "amount": Decimal(5)}
    assert seen == [("refund", arguments, "u1", f"{desk.tenant}:refund:order_id=W1"), ("W1: account 4711", arguments)]
    told = await desk.told(request)
    assert told is not None
    assert told.text == "W1: account 4711"
    assert await desk.attempt(worker, request, attempt=2) == outcome
    assert len(seen) == 2, "a step that has its result is looked at no more"


async def test_a_denied_call_is_not_run_leaves_no_effect_and_the_model_is_told_why(desk: Desk) -> None:
    done: Seen = []
    refund = refund_tool(done)
    worker = desk.worker(refund, hooks=[saying(None), saying(Deny("Refunds are closed on Sundays."))])
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    outcome = await desk.attempt(worker, request)
    assert (outcome.ok, outcome.ask, done) == (False, None, [])
    told = await desk.told(request)
    assert told is not None
    assert (told.text, told.is_error) == ("Not run: Refunds are closed on Sundays.", True)
    assert await desk.row(refund, "order_id=W1") is None


async def test_a_hook_asks_a_person_nothing_is_run_meanwhile_and_with_their_yes_it_may_not_ask_again(desk: Desk) -> None:
    done: Seen = []
    refund, policy = refund_tool(done), ApprovalPolicy(by=("@leads",))
    worker = desk.worker(refund, hooks=[saying(Ask("a new customer", policy=policy)), saying(Ask("a Sunday"))])
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    for attempt in (1, 2):
        outcome = await desk.attempt(worker, request, attempt=attempt)
        assert outcome.ask == AskedByHook(when="before", reason="a new customer; a Sunday", policy=policy)
    assert done == []
    assert await desk.told(request) is None
    assert await desk.row(refund, "order_id=W1") is None
    approved = request.model_copy(update={"approved": True})
    assert (await desk.attempt(worker, approved)).ok
    assert done == ["W1"]


async def test_a_no_stands_before_every_wish_to_ask_and_before_a_persons_yes(desk: Desk) -> None:
    done: Seen = []
    refund = refund_tool(done)
    worker = desk.worker(refund, hooks=[saying(Ask("why")), saying(Deny("never"))])
    request = (await desk.asked(refund.spec, {"order_id": "W1"})).model_copy(update={"approved": True})
    assert (await desk.attempt(worker, request)).preview == "Not run: never"
    assert done == []


async def test_a_call_that_has_begun_is_not_stopped_any_more(desk: Desk) -> None:
    """Denied now, the model would be told that nothing was run, when nobody knows."""
    done: Seen = []
    verdicts: list[Any] = [None, Deny("too late"), Deny("other arguments")]
    refund = refund_tool(done)
    broken = refund_tool(done)
    broken.function = lambda order_id, amount=0: (_ for _ in ()).throw(RuntimeError("line cut"))  # type: ignore[assignment]
    guard = saying(lambda: verdicts.pop(0))
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    for attempt in (1, 2):
        with pytest.raises(StepError) as parked:
            await desk.attempt(desk.worker(broken, hooks=[guard]), request, attempt=attempt)
        assert parked.value.failure_class is FailureClass.UNKNOWN_OUTCOME
    assert len(verdicts) == 2
    await desk.edit(request, {"order_id": "W1", "amount": 1})
    verdicts.pop(0)
    outcome = await desk.attempt(desk.worker(refund, hooks=[guard]), request, again=True)
    assert outcome.preview.endswith("Not run: other arguments"), "what a person has changed is looked at anew"
    assert done == []


@pytest.mark.parametrize("verdict", [RuntimeError("no table"), ToolError("no"), asyncio.CancelledError(), True, "fine"])
async def test_a_broken_guard_lets_nothing_through_and_parks(desk: Desk, verdict: Any) -> None:
    done: Seen = []
    refund = refund_tool(done)
    worker, request = desk.worker(refund, hooks=[saying(verdict)]), await desk.asked(refund.spec, {"order_id": "W1"})
    with pytest.raises(StepError, match="A hook that guards refund is broken: guard") as parked:
        await desk.attempt(worker, request, attempt=3)
    assert (parked.value.failure_class, parked.value.code) == (FailureClass.TOOL, "hook_failed")
    assert done == []
    assert await desk.told(request) is None
    assert (await desk.attempt(desk.worker(refund, hooks=[saying(None)]), request, activity="2")).ok, "mended, and redriven"


async def test_a_guard_that_fails_is_asked_again_a_few_times_first(desk: Desk) -> None:
    refund = refund_tool([])
    worker = desk.worker(refund, hooks=[saying(ConnectionError("no database"))])
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    classes = []
    for attempt in (1, 2, 3):
        with pytest.raises(StepError) as failed:
            await desk.attempt(worker, request, attempt=attempt)
        classes.append(failed.value.failure_class)
    assert classes == [FailureClass.TRANSIENT, FailureClass.TRANSIENT, FailureClass.TOOL]


async def test_a_guard_that_hangs_is_broken(desk: Desk) -> None:
    refund = refund_tool([])

    @before("refund", timeout_s=0.05)
    async def hang() -> None:
        await asyncio.Event().wait()

    with pytest.raises(StepError, match="hang raised TimeoutError"):
        await desk.attempt(desk.worker(refund, hooks=[hang]), await desk.asked(refund.spec, {"order_id": "W1"}), attempt=3)


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_withheld_result_is_kept_from_the_model_and_the_effect_stays_done(desk: Desk, effect: Effect) -> None:
    done: Seen = []
    refund = refund_tool(done, effect=effect, key=None)
    worker = desk.worker(refund, hooks=[saying(Deny("It holds an account number."), after)])
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    outcome = await desk.attempt(worker, request)
    told = await desk.told(request)
    assert told is not None
    assert told.text == "The tool ran, but its result is withheld: It holds an account number."
    assert (outcome.ok, outcome.preview, done) == (True, told.text, ["W1"])
    assert (await desk.attempt(worker, request, attempt=2)).preview == told.text
    kept = await desk.database.fetchrow("select state, message->>'text' as text from held_results where run_id = $1", request.run_id)
    assert kept is not None
    assert tuple(kept.values()) == ("withheld", "W1: account 4711")


async def test_a_result_that_a_person_is_asked_about_says_so_after_every_crash_and_can_be_withheld(desk: Desk) -> None:
    refund = refund_tool([])
    asks = saying(Ask("It holds an account number."), after)
    worker, request = desk.worker(refund, hooks=[asks]), await desk.asked(refund.spec, {"order_id": "W1"})
    first = await desk.attempt(worker, request)
    assert first.ask == AskedByHook(when="after", reason="It holds an account number.")
    assert (await desk.attempt(worker, request, attempt=2)).ask == first.ask
    withhold = WithholdRequest(run_id=request.run_id, step=2, by="ann", reason="A person said no: private")
    for _ in range(2):
        await ActivityEnvironment().run(worker.activities.withhold_result, withhold)
    told = await desk.told(request)
    assert told is not None
    assert told.text == "A person withheld this result. A person said no: private"
    kept = await desk.database.fetchrow("select decided_by, message->>'text' as text from held_results where run_id = $1", request.run_id)
    assert kept is not None
    assert tuple(kept.values()) == ("ann", "W1: account 4711")


async def test_a_broken_guard_of_results_shows_the_model_nothing_until_it_is_mended(desk: Desk) -> None:
    done: Seen = []
    refund = refund_tool(done)
    broken = desk.worker(refund, hooks=[saying(RuntimeError("no list of accounts"), after)])
    request = await desk.asked(refund.spec, {"order_id": "W1"})
    with pytest.raises(StepError) as parked:
        await desk.attempt(broken, request, attempt=3)
    assert parked.value.failure_class is FailureClass.TOOL
    assert await desk.told(request) is None, "a person may still give a result of their own in its place"
    assert await desk.state(refund, "order_id=W1") == "succeeded"
    assert (await desk.attempt(desk.worker(refund, hooks=[saying(None, after)]), request)).preview == "W1: account 4711"
    assert done == ["W1"]


@pytest.mark.parametrize("effect", list(Effect))
async def test_a_worker_that_dies_between_the_result_and_the_hook_has_the_hook_asked_by_the_next(desk: Desk, effect: Effect) -> None:
    done: Seen = []
    refund = refund_tool(done, effect=effect, key=None)
    asked, hang = asyncio.Event(), True

    @after("refund")
    async def guard(result: str) -> Deny | None:
        asked.set()
        if hang:
            await asyncio.Event().wait()
        return Deny("no")

    worker, request = desk.worker(refund, hooks=[guard]), await desk.asked(refund.spec, {"order_id": "W1"})
    dead = Attempt().begin(worker, request)
    await asked.wait()
    assert await desk.told(request) is None
    hang = False
    assert (await desk.attempt(worker, request, attempt=2)).preview.endswith("withheld: no")
    dead.cancel()
    assert done == ["W1"], "a pure tool is not run again either: its result is there"


async def test_failures_are_told_without_a_look_by_hooks_of_results(desk: Desk) -> None:
    asked: Seen = []

    @tool(effect=Effect.ONCE)
    async def refund(order_id: str) -> str:
        """Pay back."""
        raise ToolError("no such order")

    worker = desk.worker(refund, hooks=[saying(Deny("no"), after, asked)])
    assert (await desk.attempt(worker, await desk.asked(refund.spec, {"order_id": "W1"}))).preview == "no such order"
    assert asked == []


async def test_another_runs_result_is_looked_at_for_this_run_too(desk: Desk) -> None:
    done, seen = [], []  # type: ignore[var-annotated]
    refund = refund_tool(done)
    worker = desk.worker(refund, hooks=[saying(Deny("private"), after, seen)])
    for reused in (False, True):
        outcome = await desk.attempt(worker, await desk.asked(refund.spec, {"order_id": "W1"}))
        assert (outcome.reused, outcome.preview.endswith("private")) == (reused, True)
    assert len(seen) == 2
    plain = await desk.attempt(desk.worker(refund), await desk.asked(refund.spec, {"order_id": "W1"}))
    assert plain.preview == "W1: account 4711"


async def test_hooks_get_what_the_worker_provides_and_guard_http_tools_too(desk: Desk) -> None:
    class Rules:
        closed = "closed"

    @provide
    async def rules() -> AsyncIterator[Rules]:
        yield Rules()

    @before("fetch")
    async def guard(arguments: dict[str, Any], rules: Provided[Rules]) -> Deny:
        return Deny(f"{rules.closed} for {arguments['order_id']}")

    parameters = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
    http = HttpCall(url="http://127.0.0.1:9/{order_id}")
    fetch = ToolSpec(name="fetch", description="Fetch.", parameters=parameters, kind=ToolKind.HTTP, http=http)
    worker = desk.worker(providers=[rules], hooks=[guard])
    assert (await desk.attempt(worker, await desk.asked(fetch, {"order_id": "W1"}))).preview == "Not run: closed for W1"


async def test_a_hooks_missing_dependency_leaves_the_ledger_untouched(desk: Desk) -> None:
    class Rules:
        pass

    @before("*")
    async def guard(rules: Provided[Rules]) -> None: ...

    refund = refund_tool([])
    with pytest.raises(StepError, match="refund's hook wants a Rules"):
        await desk.attempt(desk.worker(refund, hooks=[guard]), await desk.asked(refund.spec, {"order_id": "W1"}))
    assert await desk.row(refund, "order_id=W1") is None


async def test_wrong_arguments_are_told_by_the_call_itself(desk: Desk) -> None:
    asked: Seen = []
    refund = refund_tool([])
    worker = desk.worker(refund, hooks=[saying(None, seen=asked)])
    assert "do not fit" in (await desk.attempt(worker, await desk.asked(refund.spec, {"order_id": 7}))).preview
    assert asked == []


async def test_the_first_word_on_a_held_result_stands(desk: Desk) -> None:
    refund = refund_tool([])
    worker, request = desk.worker(refund, hooks=[saying(Deny("no"), after)]), await desk.asked(refund.spec, {"order_id": "W1"})
    withheld = (await desk.attempt(worker, request)).preview
    late = await held_results.settle(desk.database, request.run_id, request.step, "released")
    assert late.text == withheld
