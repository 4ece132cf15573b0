"""People send signals by hand, from the Temporal UI or its command line: whatever they send, a run neither fails nor stops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client

from tests.workflow.scripted import Engine, Handle, Script, agent, asks_for, becomes, call, fails, final
from workflows.contracts import names
from workflows.contracts.errors import FailureClass
from workflows.contracts.people import Note
from workflows.contracts.runs import RunStatus

UNREADABLE: list[Any] = [
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b'{"call_id": ')], id="cut off JSON"),
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b"\xff\xfe")], id="no UTF-8"),
    pytest.param([Payload(metadata={"encoding": b"binary/encrypted"}, data=b"x")], id="an unknown encoding"),
    pytest.param([Payload(metadata={"encoding": b"binary/plain"}, data=b"yes")], id="bytes"),
    pytest.param([Payload(data=b"yes")], id="no encoding"),
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b'"yes"')], id="text"),
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b"null")], id="null"),
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b'{"call_id": 5, "action": "explode"}')], id="wrong types"),
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b'{"yes": true}')], id="an unknown field"),
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b"{}")] * 2, id="two payloads"),
    pytest.param([Payload(metadata={"encoding": b"json/plain"}, data=b"[" * 100_000)], id="deep nesting"),
]


async def send(client: Client, handle: Handle, name: str, payloads: Sequence[Payload]) -> None:
    request = SignalWorkflowExecutionRequest(
        namespace=client.namespace, workflow_execution=WorkflowExecution(workflow_id=handle.id), signal_name=name
    )
    request.input.CopyFrom(Payloads(payloads=payloads))
    await client.workflow_service.signal_workflow_execution(request)


@pytest.mark.parametrize("payloads", UNREADABLE)
async def test_an_unreadable_signal_changes_nothing(client: Client, engine: Engine, script: Script, payloads: list[Payload]) -> None:
    script.model("support", asks_for(call("refund", needs_approval=True)), fails(FailureClass.CALLER), final())
    handle = await engine.start(agent())
    waiting = await engine.until(handle, lambda view: bool(view.approvals))
    for name in (names.APPROVE, names.REJECT, names.REDRIVE):
        await send(client, handle, name, payloads)
    assert await engine.until(handle, lambda view: True) == waiting
    refused = await noted(script, 3)
    assert [note.order for note in refused] == [names.APPROVE, names.REJECT, names.REDRIVE]
    assert all(note.outcome == "refused" and note.reason for note in refused)

    await handle.signal(names.APPROVE, {})
    parked = await engine.parked(handle)
    await send(client, handle, names.REDRIVE, payloads)
    assert await engine.until(handle, lambda view: True) == parked

    await handle.signal(names.REDRIVE, {"action": "retry"})
    assert (await engine.result(handle)).status is RunStatus.COMPLETED


async def noted(script: Script, count: int) -> list[Note]:
    """The record, once it has so many notes."""
    await becomes(lambda: len(script.notes) >= count)
    return script.notes


async def test_a_signal_without_a_payload_means_the_defaults(client: Client, engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund", needs_approval=True)), fails(FailureClass.CALLER), final())
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: bool(view.approvals))
    await send(client, handle, names.APPROVE, [])
    await engine.parked(handle)
    await send(client, handle, names.REDRIVE, [])
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    assert [request.name for request in script.ran] == ["refund"]


async def test_signals_of_unknown_names_are_left_aside(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("refund", needs_approval=True)), final())
    handle = await engine.start(agent())
    await engine.until(handle, lambda view: bool(view.approvals))
    for name in ("aprove", "redrive ", "Approve", "ünknown"):
        await handle.signal(name, {"action": "abort"})
    await handle.signal(names.APPROVE, {})
    assert (await engine.result(handle)).status is RunStatus.COMPLETED
    refused = [note for note in script.notes if note.outcome == "refused"]
    assert [note.order for note in refused] == ["aprove", "redrive ", "Approve", "ünknown"]
    assert all("there is no order of this name" in note.reason for note in refused)


async def test_signals_to_a_run_that_waits_for_nothing_do_no_harm(engine: Engine, script: Script) -> None:
    script.model("support", asks_for(call("find_order")), final())
    handle = await engine.start(agent())
    await handle.signal(names.APPROVE, {})
    await handle.signal(names.REJECT, {"call_id": "call_2", "reason": "no"})
    await handle.signal(names.REDRIVE, {"action": "abort"})
    outcome = await engine.result(handle)
    assert outcome.status is RunStatus.COMPLETED
    assert [request.name for request in script.ran] == ["find_order"]
