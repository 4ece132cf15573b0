from __future__ import annotations

import asyncio
import json

import pytest

from activities.inference.providers.protocol import Progress, Provider
from activities.inference.providers.scripted import ScriptedAnswer, ScriptedModel, tool_call
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, LimitKind, Message, ModelRequest, ModelResponse, Role, ToldLimit, Usage

REQUEST = ModelRequest(model="any", messages=(Message(role=Role.USER, text="refund W17"),), max_output_tokens=10, idempotency_key="r/1")


async def ask(model: Provider) -> ModelResponse:
    return await model.complete(REQUEST, lambda _: None)


async def test_answers_come_in_order_and_say_that_they_are_simulated() -> None:
    model = ScriptedModel([tool_call("refund", order_id="W17"), "Done."])
    first, second = await ask(model), await ask(model)
    assert (first.tool_calls[0].name, json.loads(first.tool_calls[0].arguments)) == ("refund", {"order_id": "W17"})
    assert (first.finish, second.finish) == (FinishReason.TOOL_CALLS, FinishReason.STOP)
    assert second.text == "Done."
    assert first.simulated
    assert second.simulated
    assert first.usage.total_tokens > 0
    model.assert_exhausted()


async def test_a_script_that_is_used_up_fails_where_the_test_sees_it() -> None:
    model = ScriptedModel([])
    with pytest.raises(StepError, match="call 1 has no answer") as caught:
        await ask(model)
    assert caught.value.failure_class is FailureClass.CALLER


async def test_answers_left_over_are_an_assertion_error() -> None:
    with pytest.raises(AssertionError, match="2 scripted answers"):
        ScriptedModel(["a", "b"]).assert_exhausted()


async def test_exceptions_functions_and_whole_responses_are_answers_too() -> None:
    async def later(request: ModelRequest) -> str:
        await asyncio.sleep(0)
        return f"you said {request.messages[-1].text}"

    whole = ModelResponse(model="x", text="whole", finish=FinishReason.LENGTH, usage=Usage(output_tokens=7))
    model = ScriptedModel(
        [
            StepError("down", failure_class=FailureClass.TRANSIENT),
            later,
            lambda _: ScriptedAnswer(calls=(("find", "{broken"), ("find", {"a": 1}))),
            whole,
        ]
    )
    with pytest.raises(StepError, match="down"):
        await ask(model)
    assert (await ask(model)).text == "you said refund W17"
    assert [call.arguments for call in (await ask(model)).tool_calls] == ["{broken", '{"a": 1}']
    assert await ask(model) == whole.model_copy(update={"simulated": True})
    assert len(model.requests) == 4


async def test_progress_is_told() -> None:
    told: list[Progress] = []
    await ScriptedModel(["four"]).complete(REQUEST, told.append)
    assert told == [Progress(events=1, output_chars=4)]


async def test_an_answer_can_tell_limits_and_cached_tokens() -> None:
    told = (ToldLimit(kind=LimitKind.REQUESTS, limit=50, remaining=3, reset_s=9),)
    usage = Usage(input_tokens=100, cached_input_tokens=80, cache_write_tokens=20, output_tokens=5)
    answer = await ask(ScriptedModel([ScriptedAnswer("four", usage=usage, told=told)]))
    assert (answer.told, answer.usage) == (told, usage)
