"""A stranger at the Temporal Web UI can read what a run does, on which step, with which model, at what cost, and what it waits for."""

from __future__ import annotations

from decimal import Decimal

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowFailureError
from temporalio.converter import DataConverter

from tests.workflow.scripted import (
    Engine,
    HangsUntilCancelled,
    Script,
    agent,
    asks_for,
    call,
    call_agent,
    current_details,
    fails,
    final,
    no_call,
)
from workflows.contracts import names
from workflows.contracts.agents import Memory
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.people import ORDERS
from workflows.contracts.runs import Redrive, RunStatus
from workflows.contracts.steps import TurnKind


async def attributes(handle: object) -> dict[str, object]:
    """The run's own search attributes."""
    shown = (await handle.describe()).search_attributes  # type: ignore[attr-defined]
    return {name: values[0] for name, values in shown.items() if name in names.SEARCH_ATTRIBUTES}


async def summaries(engine: Engine, handle: object) -> list[str]:
    """The summary of every activity, child and timer, in the order of the history."""
    payloads = [event.user_metadata.summary for event in (await engine.events(handle))[1:] if event.user_metadata.HasField("summary")]
    return [DataConverter.default.payload_converter.from_payload(payload, str) for payload in payloads]


async def upserts(engine: Engine, handle: object) -> int:
    """How often the run has written search attributes."""
    kinds = [event.event_type for event in await engine.events(handle)]
    return kinds.count(EventType.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES)


async def test_search_attributes_follow_a_run_from_start_to_end(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund", needs_approval=True)), fails(FailureClass.QUOTA), final())
    handle = await engine.start(agent(), user="u1", tenant="t1")
    known = {"AgentName": "support", "AgentModel": "smart", "Tenant": "t1", "AgentUser": "u1"}
    assert (await attributes(handle)).items() >= known.items()

    await engine.until(handle, lambda view: view.status is RunStatus.WAITING_APPROVAL)
    waiting = await attributes(handle)
    since = waiting.pop("WaitingSince")
    assert waiting == known | {"AgentStatus": "waiting_approval"}
    await handle.signal(names.APPROVE, {})
    await engine.parked(handle)
    parked = await attributes(handle)
    assert parked.pop("WaitingSince") > since  # type: ignore[operator]
    assert parked == known | {"AgentStatus": "parked", "FailureClass": "quota"}
    await handle.signal(names.REDRIVE, Redrive())
    await engine.result(handle)
    assert await attributes(handle) == known | {"AgentStatus": "completed", "CostUsd": 0.002}


async def test_search_attributes_tell_a_run_that_waited_for_nothing_in_two_writes(engine: Engine, script: Script) -> None:
    script.model("support", *[asks_for(call("find_order", {"place": place})) for place in range(5)], final())
    handle = await engine.start(agent())
    await engine.result(handle)
    assert await upserts(engine, handle) == 1, "besides those it was started with: an upsert costs an event"


async def test_search_attributes_are_written_when_the_status_changes_and_not_for_every_wait(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(*[call("refund", {"place": place}, needs_approval=True) for place in range(4)]), final())
    handle = await engine.start(agent())
    for left in (4, 3, 2, 1):
        view = await engine.until(handle, lambda view, left=left: len(view.approvals) == left)
        await handle.signal(names.APPROVE, {"call_id": view.approvals[0].call_id})
    await engine.result(handle)
    assert await upserts(engine, handle) == 3, "waiting, running, completed"


@pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.FAILED])
async def test_a_run_that_ended_badly_says_so(engine: Engine, script: Script, status: RunStatus) -> None:
    script.model("support", fails(FailureClass.CALLER))
    handle = await engine.start(agent())
    await engine.parked(handle)
    await (handle.cancel() if status is RunStatus.CANCELLED else handle.signal(names.REDRIVE, Redrive(action="abort")))
    with pytest.raises(WorkflowFailureError):
        await engine.result(handle)
    assert (await attributes(handle))["AgentStatus"] == status.value
    assert (await current_details(handle)).startswith(f"**{status.value.capitalize()}**")


async def test_a_sub_agent_is_found_under_its_own_name_and_names_its_caller(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call_agent(agent("helper"), "look up W1")), final())
    script.model("helper", final())
    handle = await engine.start(agent(), user="u1")
    await engine.result(handle)
    child = engine.client.get_workflow_handle(f"{handle.id}.2")
    shown = await attributes(child)
    assert (shown["AgentName"], shown["AgentStatus"], shown["AgentUser"]) == ("helper", "completed", "u1")
    described = await child.describe()
    assert await described.static_summary() == 'helper: {"request": "look up W1"}'
    assert f"**Part of** run `{handle.id}`" in str(await described.static_details())


async def test_static_details_say_who_runs_what_for_whom_within_which_limits(engine: Engine, script: Script) -> None:
    pinned = agent(steps=12, cost_usd=Decimal("0.5"), time_s=600)
    script.model("support", final())
    handle = await engine.start(pinned, user="u1", tenant="t1")
    described = await handle.describe()
    assert await described.static_summary() == "support: Where is my order?"
    assert str(await described.static_details()).split("\n\n") == [
        f"**Agent** support, version 1, definition `{pinned.definition_hash[:12]}`",
        "**Model** smart",
        "**Tenant** t1, user u1",
        "**Limits** 12 steps, 0.5 USD, 600 s",
    ]
    await engine.result(handle)


async def test_every_step_says_what_it_is(engine: Engine, script: Script) -> None:
    full = no_call(TurnKind.CONTEXT_FULL, "no room")
    script.model("support", asks_for(call("find_order", {"order_id": "W1"})), full, asks_for(call_agent(agent("helper"))), final())
    script.model("helper", final())
    handle = await engine.start(agent(memory=Memory(recall=1, remember=True)))
    await engine.result(handle)
    assert await summaries(engine, handle) == [
        "recall memories",
        "step 1: support asks smart",
        'step 2: find_order {"order_id": "W1"}',
        "step 3: support asks smart",
        "step 3: summarise the history",
        "step 4: support asks smart",
        'helper: {"request": "do it"}',
        "step 6: support asks smart",
        "keep a memory",
    ]


async def test_current_details_say_what_runs_now_and_what_it_has_cost(engine: Engine, script: Script) -> None:
    hanging = HangsUntilCancelled()
    script.model("support", asks_for(call("find_order"), call("slow"), unknown_usd=Decimal("0.0004")))
    script.tool("slow", hanging)
    handle = await engine.start(agent())
    await hanging.began.wait()
    assert (await current_details(handle)).split("\n\n") == [
        "**Running** at step 3: running find_order, slow",
        "**So far** 1 model calls, 100 tokens in, 10 out, 0.0010 USD, of it 0.0004 USD unknown spend",
        "**Model** scripted-model",
    ]
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await engine.result(handle)


async def test_current_details_say_what_a_run_waits_for_and_how_to_answer(engine: Engine, script: Script) -> None:
    refund = call("refund", {"order_id": "W1"}, needs_approval=True)
    script.model("support", asks_for(refund), fails(FailureClass.QUOTA, "no credit left"), final())
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: bool(view.approvals))
    details = await current_details(handle)
    assert details.startswith("**Waiting approval** at step 2: running refund")
    assert '**Waits for a yes or no to** `refund` {"order_id": "W1"} (call `call_2`)' in details

    await handle.signal(names.APPROVE, {})
    await engine.parked(handle)
    details = await current_details(handle)
    assert details.startswith("**Parked** at step 2: asking smart")
    assert "**Parked** call_model smart, quota: no credit left" in details
    assert '`{"action": "retry"}`, `"skip"` or `"abort"`' in details

    await handle.signal(names.REDRIVE, Redrive())
    await engine.result(handle)
    assert (await current_details(handle)).startswith("**Completed** at step 3: done")


async def test_the_signals_say_what_they_take(engine: Engine, script: Script) -> None:
    script.model("support", final())
    handle = await engine.start(agent())
    await engine.result(handle)
    metadata = await handle.query("__temporal_workflow_metadata")
    (every,) = metadata.definition.signal_definitions  # one for all, or what cannot be read would be dropped unseen
    assert every.name == ""
    assert all(name in every.description for name in (*ORDERS, names.WAKE, "{"))


async def test_a_failure_keeps_its_place_in_the_code_and_leaves_secrets_out_of_the_history(engine: Engine, script: Script) -> None:
    secret = "sk-proj-" + "aB3dE5fG7hJ9kL2mN4pQ6rS8tU1vW3xY"

    def breaks_with_a_secret(_: object) -> str:
        try:
            raise ValueError(f"the provider said: wrong key {secret}")
        except ValueError as error:
            raise StepError(f"refused, key {secret}", failure_class=FailureClass.CALLER) from error

    script.model("support", asks_for(call("find_order")))
    script.tool("find_order", breaks_with_a_secret)
    handle = await engine.start(agent())
    view = await engine.parked(handle)
    assert view.parked is not None
    assert view.parked.cause.startswith("refused, key ")
    history = b"".join(event.SerializeToString() for event in await engine.events(handle))
    assert b"breaks_with_a_secret" in history, "the frames of the failure"
    assert secret.encode() not in history
    assert secret not in await current_details(handle)
    await handle.cancel()
