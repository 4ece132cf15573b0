from __future__ import annotations

import pytest
from pydantic import ValidationError

from devstack.simulated_provider.faults import Fault, FaultKind, FaultTable
from devstack.simulated_provider.policy import SimulatedRequest
from workflows.contracts.messages import Message, Role, ToolCall


def request(text: str = "hello", model: str = "fast-1", system: str = "") -> SimulatedRequest:
    return SimulatedRequest(model=model, system=system, messages=(Message(role=Role.USER, text=text),), tools=())


def table(*faults: Fault) -> FaultTable:
    faults_in_force = FaultTable()
    for fault in faults:
        faults_in_force.add(fault)
    return faults_in_force


def fires(faults: FaultTable, *requests: SimulatedRequest) -> list[bool]:
    return [faults.before_answer(one) is not None for one in requests]


def test_nth_counts_only_the_requests_that_fit() -> None:
    faults = table(Fault(kind=FaultKind.SERVER_ERROR, contains="W17", nth=2))
    assert fires(faults, request("W17"), request("other"), request("W17"), request("W17")) == [False, False, True, False]


def test_count_ends_a_fault() -> None:
    faults = table(Fault(kind=FaultKind.SERVER_ERROR, count=2))
    assert fires(faults, *[request()] * 4) == [True, True, False, False]
    assert faults.fired()[0][1] == 2


def test_models_are_matched_with_wildcards() -> None:
    faults = table(Fault(kind=FaultKind.SERVER_ERROR, model="fast-*"))
    assert fires(faults, request(), request(model="smart-1")) == [True, False]


def test_text_is_looked_for_in_instructions_messages_and_arguments() -> None:
    faults = table(Fault(kind=FaultKind.SERVER_ERROR, contains="needle"))
    call = Message(role=Role.ASSISTANT, tool_calls=(ToolCall(call_id="1", name="n", arguments='{"a": "needle"}'),))
    with_call = SimulatedRequest(model="m", system="", messages=(call,), tools=())
    assert fires(faults, request("a needle"), request(system="needles"), with_call, request()) == [True, True, True, False]


def test_chance_is_the_same_for_the_same_seed() -> None:
    drawn = [fires(table(Fault(kind=FaultKind.SERVER_ERROR, probability=0.3, seed=7)), *[request()] * 200) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert 30 < sum(drawn[0]) < 90


def test_the_first_rule_that_fires_wins() -> None:
    faults = table(Fault(kind=FaultKind.QUOTA, nth=2), Fault(kind=FaultKind.OVERLOADED))
    kinds = [fault.kind for fault in (faults.before_answer(request()) for _ in range(3)) if fault]
    assert kinds == [FaultKind.OVERLOADED, FaultKind.QUOTA, FaultKind.OVERLOADED]


def test_malformed_arguments_wait_for_an_answer_with_calls() -> None:
    faults = table(Fault(kind=FaultKind.MALFORMED_ARGUMENTS, nth=1))
    assert faults.before_answer(request()) is None
    fault = faults.on_answer(request())
    assert fault is not None
    assert fault.label == "malformed_arguments"


@pytest.mark.parametrize(
    "wrong",
    [{"kind": "nope"}, {"kind": "quota", "nth": 0}, {"kind": "quota", "probability": 2}, {"kind": "quota", "colour": "red"}, {}],
)
def test_a_rule_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate(wrong)
