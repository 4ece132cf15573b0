"""A model that says what a test tells it to say: no server, no key, no chance."""

from __future__ import annotations

import inspect
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from activities.inference.providers.protocol import Progress
from activities.inference.providers.scripted_batches import ScriptedBatches
from activities.inference.providers.wire import estimated_usage
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.messages import FinishReason, ModelRequest, ModelResponse, ToldLimit, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class ScriptedAnswer:
    """One answer of the script.

    Args:
        text: what the model says.
        calls: the tools it calls, in order, as (name, arguments). Arguments given as text are passed on as they are, valid
            JSON or not.
        finish: why it stops; by default `tool_calls` when there are calls, else `stop`.
        usage: tokens, cached ones too; by default estimated from the text.
        told: what the provider tells of its limits with it. A refusal tells them by `StepError(…, told=…)`.
    """

    text: str = ""
    calls: tuple[tuple[str, Mapping[str, Any] | str], ...] = ()
    finish: FinishReason | None = None
    usage: Usage | None = None
    told: tuple[ToldLimit, ...] = ()


Scripted = str | ScriptedAnswer | ModelResponse | Exception
Script = Scripted | Callable[[ModelRequest], Scripted | Awaitable[Scripted]]


def tool_call(name: str, /, **arguments: Any) -> ScriptedAnswer:
    """An answer that calls one tool."""
    return ScriptedAnswer(calls=((name, arguments),))


class ScriptedModel:
    """A provider that gives the answers of a list, one a call, and keeps the requests it was asked.

    An answer is text, a `ScriptedAnswer`, a whole `ModelResponse`, an exception to raise, or a function (sync or async) of
    the request that gives one of these. When the list is used up the next call fails with a `StepError` of class `caller`,
    which parks the run where the test can see it. Every answer is marked as simulated. With `in_batches` it has a Batch API too,
    whose answers come from the same list.
    """

    def __init__(self, answers: Iterable[Script], *, name: str = "scripted", in_batches: bool = False) -> None:
        self._name = name
        self.batches = ScriptedBatches(self.complete) if in_batches else None
        self._left = deque(answers)
        self.requests: list[ModelRequest] = []

    @property
    def name(self) -> str:
        """The name that model ids carry in front."""
        return self._name

    @property
    def remaining(self) -> int:
        """Answers that nobody has asked for yet."""
        return len(self._left)

    def assert_exhausted(self) -> None:
        """Raise `AssertionError` when answers are left over."""
        if self._left:
            asked = len(self.requests)
            raise AssertionError(f"{len(self._left)} scripted answers were never asked for; {asked} calls were made")

    async def complete(self, request: ModelRequest, on_progress: Callable[[Progress], None]) -> ModelResponse:
        """Give the next answer of the script."""
        self.requests.append(request)
        if not self._left:
            raise StepError(
                f"the script of {self._name!r} is used up: call {len(self.requests)} has no answer",
                failure_class=FailureClass.CALLER,
                code="script_used_up",
            )
        said = self._left.popleft()
        if callable(said):
            result = said(request)
            said = await result if inspect.isawaitable(result) else result
        if isinstance(said, Exception):
            raise said
        response = self._response(request, said)
        on_progress(Progress(events=1, output_chars=len(response.text)))
        return response

    def _response(self, request: ModelRequest, said: str | ScriptedAnswer | ModelResponse) -> ModelResponse:
        if isinstance(said, ModelResponse):
            return said.model_copy(update={"simulated": True})
        answer = ScriptedAnswer(text=said) if isinstance(said, str) else said
        number = len(self.requests)
        calls = tuple(
            ToolCall(
                call_id=f"call_{number}_{position}",
                name=name,
                arguments=arguments if isinstance(arguments, str) else json.dumps(arguments),
            )
            for position, (name, arguments) in enumerate(answer.calls)
        )
        written = len(answer.text) + sum(len(call.name) + len(call.arguments) for call in calls)
        return ModelResponse(
            model=request.model,
            text=answer.text,
            tool_calls=calls,
            finish=answer.finish or (FinishReason.TOOL_CALLS if calls else FinishReason.STOP),
            usage=answer.usage or estimated_usage(request, written),
            request_id=f"{self._name}-{number}",
            simulated=True,
            told=answer.told,
        )

    async def aclose(self) -> None:
        """Nothing to close."""
